//! A swap: the best way to divide anew, between two pools, the variables that are in them now, as a
//! minimum cut. Unlike an expansion it is exact for any costs of the links.

use crate::energy::Model;
use crate::nets::{Consumer, Net, Owner};
use crate::network::{Budget, Network, Side};
use crate::order::index;
use crate::sides;

/// Returns `pools` with open variables moved between `pair`, or `None` when finding out takes more than
/// `budget` steps.
pub(crate) fn swap(
    model: Model<'_>,
    pools: &[u8],
    pair: [usize; 2],
    is_open: &[bool],
    budget: &Budget,
) -> Option<Vec<u8>> {
    let nets = model.nets;
    budget.take(nets.effort())?;
    let mut network = nets.network();
    let both = (1 << pair[0]) | (1 << pair[1]);
    let may_move = |variable: u32| {
        let variable = variable as usize;
        is_open[variable]
            && both >> pools[variable] & 1 == 1
            && nets.possible[variable] & both == both
    };
    let mut projected = Vec::new();
    for net in nets.iter() {
        let mover = match net.owner {
            Owner::Variable(owner) if may_move(owner) => Some(owner),
            Owner::Variable(_) | Owner::Pools(_) => None,
        };
        if mover.is_none()
            && !net
                .consumers
                .iter()
                .any(|(consumer, _)| may_move(*consumer))
        {
            continue;
        }
        project(&net, pools, pair, may_move, &mut projected);
        if let Some(owner) = mover {
            let [first, second] = pair;
            let charges = [(second, first), (first, second)];
            let charges = charges.map(|(from, to)| model.charge(&net, from, to));
            sides::from_variable(&mut network, &projected, owner, charges);
            to_others(model, &mut network, &net, owner, pools, pair);
        } else {
            let own = match net.owner {
                Owner::Variable(owner) => usize::from(pools[owner as usize]),
                Owner::Pools(_) => usize::MAX,
            };
            for (side, to) in [(0, pair[0]), (1, pair[1])] {
                if own != to {
                    let charge = model.charge(&net, own, to);
                    sides::from_fixed(&mut network, &projected, side, charge);
                }
            }
        }
    }
    network.solve(budget)?;
    let mut swapped = pools.to_vec();
    for variable in index(nets.pools)..index(nets.len()) {
        if may_move(variable) {
            let pool = match network.side(variable) {
                Side::Source => pair[0],
                Side::Sink => pair[1],
                Side::Either => continue,
            };
            swapped[variable as usize] = u8::try_from(pool).expect("there are at most 64 pools");
        }
    }
    Some(swapped)
}

/// The consumers of a net as the cut sees them: nodes that may move, and sides. Others are left
/// out.
fn project(
    net: &Net<'_>,
    pools: &[u8],
    pair: [usize; 2],
    may_move: impl Fn(u32) -> bool,
    projected: &mut Vec<Consumer>,
) {
    projected.clear();
    let mut fixed = [0, 0];
    for &(consumer, tasks) in net.consumers {
        let pool = usize::from(pools[consumer as usize]);
        if may_move(consumer) {
            projected.push((consumer, tasks));
        } else if let Some(side) = pair.iter().position(|it| *it == pool) {
            fixed[side] += tasks;
        }
    }
    for (side, tasks) in (0..).zip(fixed) {
        if tasks > 0 {
            projected.push((side, tasks));
        }
    }
}

/// What an output costs in pools that are not divided anew.
fn to_others(
    model: Model<'_>,
    network: &mut Network,
    net: &Net<'_>,
    owner: u32,
    pools: &[u8],
    pair: [usize; 2],
) {
    let mut charged = 0_u64;
    for (consumer, tasks) in net.consumers {
        let to = usize::from(pools[*consumer as usize]);
        if pair.contains(&to) {
            continue;
        }
        let [first, second] = pair.map(|from| {
            let charge = model.charge(net, from, to);
            let once = if charged >> to & 1 == 0 {
                charge.once
            } else {
                0
            };
            once + charge.each * i64::from(*tasks)
        });
        network.cost_at_source(owner, first);
        network.cost_at_sink(owner, second);
        charged |= 1 << to;
    }
}
