//! Two pools: the minimum, as a minimum cut.
//!
//! Pool 0 is the source's side and pool 1 the sink's.

use crate::links::Links;
use crate::nets::{Net, Nets, Owner};
use crate::network::{Budget, Network, Side};
use crate::order::index;
use crate::sides;
use crate::units::Units;

/// A pool per variable, of least cost.
pub(crate) struct Cut {
    pub(crate) pools: Vec<u8>,
    /// Whether the search was carried to its end.
    pub(crate) is_minimum: bool,
}

/// Cuts `nets` between two pools. Where both pools cost the same, the one with fewer tasks per
/// thread takes it if `capacity` is known, else it stays where `guess` has most of it. When the cut
/// takes more than `budget` steps, the pools are those of the flow found so far.
pub(crate) fn cut(
    nets: &Nets,
    links: &Links,
    units: Units,
    guess: &[u8],
    capacity: &[u32],
    budget: &Budget,
) -> Cut {
    let mut network = nets.network();
    for net in nets.iter() {
        add(&mut network, net, links, units);
    }
    let is_minimum = network.solve(budget).is_some();
    let mut pools: Vec<u8> = (0..2).collect();
    pools.extend(
        (2..index(nets.len())).map(|variable| match network.side(variable) {
            Side::Source => 0,
            Side::Sink => 1,
            Side::Either => UNDECIDED,
        }),
    );
    settle(nets, &network, guess, capacity, &mut pools);
    Cut { pools, is_minimum }
}

const UNDECIDED: u8 = u8::MAX;

fn add(network: &mut Network, net: Net<'_>, links: &Links, units: Units) {
    let charge = |from: usize, to: usize| units.charge(net.bytes * links.cost(from, to));
    match net.owner {
        Owner::Pools(1) => sides::from_fixed(network, net.consumers, 1, charge(0, 1)),
        Owner::Pools(2) => sides::from_fixed(network, net.consumers, 0, charge(1, 0)),
        Owner::Pools(_) => {}
        Owner::Variable(owner) => {
            let charges = [charge(1, 0), charge(0, 1)];
            sides::from_variable(network, net.consumers, owner, charges);
        }
    }
}

/// Decides about what may be on either side: all that hangs together goes to one pool, since only
/// then is the cut a minimum.
fn settle(nets: &Nets, network: &Network, guess: &[u8], capacity: &[u32], pools: &mut [u8]) {
    let mut load = [0_u64; 2];
    for (variable, pool) in pools.iter().enumerate() {
        if let Some(load) = load.get_mut(usize::from(*pool)) {
            *load += u64::from(nets.sizes[variable]);
        }
    }
    let mut seen = vec![false; network.len()];
    let mut found: Vec<u32> = Vec::new();
    for first in 2..index(nets.len()) {
        if network.side(first) != Side::Either || seen[first as usize] {
            continue;
        }
        connected(network, first, &mut seen, &mut found);
        found.retain(|node| (*node as usize) < nets.len());
        let mut guessed = [0_u64; 2];
        for &variable in &found {
            let pool = usize::from(guess[variable as usize]);
            guessed[pool] += u64::from(nets.sizes[variable as usize]);
        }
        let pool = match *capacity {
            // Tasks per thread, compared crosswise.
            [first, second] if load[0] * u64::from(second) != load[1] * u64::from(first) => {
                usize::from(load[0] * u64::from(second) > load[1] * u64::from(first))
            }
            _ => usize::from(guessed[1] > guessed[0]),
        };
        load[pool] += guessed[0] + guessed[1];
        for &variable in &found {
            pools[variable as usize] = if pool == 0 { 0 } else { 1 };
        }
    }
}

/// Collects the undecided nodes that hang together with `first`.
fn connected(network: &Network, first: u32, seen: &mut [bool], found: &mut Vec<u32>) {
    found.clear();
    found.push(first);
    seen[first as usize] = true;
    let mut next = 0;
    while let Some(&node) = found.get(next) {
        next += 1;
        for other in network.neighbours(node) {
            if network.side(other) == Side::Either && !seen[other as usize] {
                seen[other as usize] = true;
                found.push(other);
            }
        }
    }
}
