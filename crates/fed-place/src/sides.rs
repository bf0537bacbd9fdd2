//! What outputs cost across a cut between two pools.
//!
//! Pool 0 is the source's side and pool 1 the sink's, as consumers they have the numbers 0 and 1;
//! any other consumer is a node. An output with several consumers gets a node of its own for each
//! direction in which it may cross, so that its bytes count once.

use crate::nets::Consumer;
use crate::network::Network;
use crate::units::Charge;

/// An output that lies in the pool that is not `to`, and costs `charge` if needed there.
pub(crate) fn from_fixed(network: &mut Network, consumers: &[Consumer], to: u32, charge: Charge) {
    let is_needed = consumers.iter().any(|(consumer, _)| *consumer == to);
    if let [(consumer, tasks)] = *consumers {
        if consumer >= 2 {
            at(network, consumer, to, charge.of(tasks));
        }
        return;
    }
    let any = (!is_needed && charge.once > 0).then(|| network.node());
    if let Some(any) = any {
        at(network, any, to, charge.once);
    }
    for &(consumer, tasks) in consumers.iter().filter(|(consumer, _)| *consumer >= 2) {
        at(network, consumer, to, charge.each * i64::from(tasks));
        if let Some(any) = any {
            apart(network, any, consumer, to, charge.once);
        }
    }
}

/// An output of a variable, which costs `charges[to]` if it is needed in `to` and made elsewhere.
pub(crate) fn from_variable(
    network: &mut Network,
    consumers: &[Consumer],
    owner: u32,
    charges: [Charge; 2],
) {
    if let [(consumer, tasks)] = *consumers
        && consumer >= 2
    {
        let [backward, forward] = charges.map(|charge| charge.of(tasks));
        network.arc(owner, consumer, forward, backward);
        return;
    }
    towards(network, consumers, owner, 1, charges[1]);
    towards(network, consumers, owner, 0, charges[0]);
    for &(consumer, tasks) in consumers.iter().filter(|(consumer, _)| *consumer >= 2) {
        let [backward, forward] = charges.map(|charge| charge.each * i64::from(tasks));
        if backward > 0 || forward > 0 {
            network.arc(owner, consumer, forward, backward);
        }
    }
}

/// One direction of that: what it costs if it is needed in `to` and made elsewhere, but for what
/// each consumer that may move costs.
fn towards(network: &mut Network, consumers: &[Consumer], owner: u32, to: u32, charge: Charge) {
    let elsewhere = 1 - to;
    let pinned = consumers.iter().find(|(consumer, _)| *consumer == to);
    if let Some((_, tasks)) = pinned {
        at(network, owner, elsewhere, charge.of(*tasks));
    } else if charge.once > 0 && consumers.iter().any(|(consumer, _)| *consumer >= 2) {
        let any = network.node();
        apart(network, owner, any, to, charge.once);
        for &(consumer, _) in consumers.iter().filter(|(consumer, _)| *consumer >= 2) {
            apart(network, any, consumer, to, charge.once);
        }
    }
}

/// Adds `cost` to every cut with `node` in `pool`.
fn at(network: &mut Network, node: u32, pool: u32, cost: i64) {
    if pool == 0 {
        network.cost_at_source(node, cost);
    } else {
        network.cost_at_sink(node, cost);
    }
}

/// Adds `cost` to every cut with `node` in the pool that is not `to`, and `other` in `to`.
fn apart(network: &mut Network, node: u32, other: u32, to: u32, cost: i64) {
    if to == 1 {
        network.arc(node, other, cost, 0);
    } else {
        network.arc(node, other, 0, cost);
    }
}
