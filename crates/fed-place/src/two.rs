//! Two pools: the minimum, as a minimum cut.
//!
//! Pool 0 is the source's side and pool 1 the sink's.

use crate::energy::Model;
use crate::nets::{Net, Nets, Owner};
use crate::network::{Budget, Network, Side};
use crate::order::index;
use crate::sides;

/// A pool per variable, of least cost.
pub(crate) struct Cut {
    pub(crate) pools: Vec<u8>,
    /// Whether the search was carried to its end.
    pub(crate) is_minimum: bool,
    /// No assignment costs less, in whole numbers.
    pub(crate) lower_bound: i64,
}

/// Cuts the nets between two pools. Where both pools cost the same, the one with fewer tasks per
/// thread takes it if `capacity` is known, else it stays where `guess` has most of it.
///
/// When the cut takes more than `budget` steps, the pools are the cheapest of what the flow found
/// so far says, `guess`, and all that may move in one pool; the flow is a bound all the same.
pub(crate) fn cut(model: Model<'_>, guess: &[u8], capacity: &[u32], budget: &Budget) -> Cut {
    let nets = model.nets;
    let mut network = nets.network();
    let mut whatever = 0;
    for net in nets.iter() {
        whatever += add(model, &mut network, net);
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
    if !is_minimum {
        let gathered = (0..2).map(|pool| model.gather(guess, pool));
        pools = model.cheapest([pools, guess.to_vec()].into_iter().chain(gathered));
    }
    Cut {
        pools,
        is_minimum,
        lower_bound: network.flow() + whatever,
    }
}

const UNDECIDED: u8 = u8::MAX;

/// Adds what an output may cost to the network; returns what it costs wherever all that may move
/// is.
fn add(model: Model<'_>, network: &mut Network, net: Net<'_>) -> i64 {
    let owner = match net.owner {
        Owner::Variable(owner) => {
            let charges = [(1, 0), (0, 1)].map(|(from, to)| model.charge(&net, from, to));
            sides::from_variable(network, net.consumers, owner, charges);
            return 0;
        }
        Owner::Pools(1) => 0,
        Owner::Pools(2) => 1,
        Owner::Pools(_) => return 0,
    };
    let to = 1 - owner;
    let charge = model.charge(&net, usize::MAX, to as usize);
    sides::from_fixed(network, net.consumers, to, charge);
    let pinned = net.consumers.iter().find(|(consumer, _)| *consumer == to);
    pinned.map_or(0, |(_, tasks)| charge.of(*tasks))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clusters;
    use crate::graph::Graph;
    use crate::links::Links;
    use crate::order::{Consumers, topological};
    use crate::units::Units;

    const TASKS: usize = 300;
    const SURCHARGE: f64 = 0.05;

    /// Tasks with two dependencies each among the twenty before, a third of them pinned.
    fn arrays() -> (Vec<u64>, Vec<u32>, Vec<u32>, Vec<u64>) {
        let mut state = 7_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let (mut bytes, mut indptr, mut indices, mut allowed) = (vec![], vec![0], vec![], vec![]);
        for task in 0..TASKS as u64 {
            for _ in 0..2.min(task) {
                indices.push(u32::try_from(task - 1 - next(task.min(20))).expect("a small graph"));
            }
            indptr.push(index(indices.len()));
            bytes.push(1 + next(1000));
            allowed.push(if next(3) == 0 { 1 + next(2) } else { 0 });
        }
        (bytes, indptr, indices, allowed)
    }

    #[test]
    fn a_cut_that_is_given_up_has_a_bound_and_is_no_dearer_than_the_guess() {
        let (bytes, indptr, indices, allowed) = arrays();
        let graph = Graph {
            output_bytes: &bytes,
            indptr: &indptr,
            indices: &indices,
            allowed: &allowed,
            present: &[],
        };
        let links = Links::uniform(2).expect("two pools are possible");
        let consumers = Consumers::new(&graph);
        let order = topological(&graph, &consumers).expect("no task comes before its inputs");
        let mut clusters = clusters::find(&graph, &order, &consumers, &bytes, &links, SURCHARGE);
        let nets = Nets::new(&graph, &consumers, &bytes, &links, &mut clusters);
        let units = Units::new(nets.total_weight(SURCHARGE), &links, SURCHARGE);
        let (nets, links) = (&nets, &links);
        let model = Model { nets, links, units };
        let first = |pools: &u64| u8::try_from(pools.trailing_zeros()).expect("two pools");
        let guess: Vec<u8> = nets.possible.iter().map(first).collect();

        let whole = cut(model, &guess, &[], &Budget::new(u64::MAX));
        let given_up = cut(model, &guess, &[], &Budget::new(0));

        assert!(whole.is_minimum && !given_up.is_minimum);
        let minimum = model.energy(&whole.pools);
        assert_eq!(whole.lower_bound, minimum);
        assert!((1..=minimum).contains(&given_up.lower_bound));
        let found = model.energy(&given_up.pools);
        assert!((minimum..=model.energy(&guess)).contains(&found));
    }
}
