//! Isolating cuts: each pool parted from all the others at the least cost.

use crate::energy::Model;
use crate::graph::all;
use crate::nets::{Net, Owner};
use crate::network::{Budget, Network, Side};
use crate::order::index;
use crate::placement::pools_of;
use crate::units::Charge;

/// What isolating cuts tell.
pub(crate) struct Isolated {
    pub(crate) pools: Vec<u8>,
    /// Variables that are on the side of no pool.
    pub(crate) is_open: Vec<bool>,
    /// No assignment costs less.
    pub(crate) bound: i64,
}

/// Gives every variable the pool to whose side it belongs, those that belong to none their pool in
/// `guess`; and a cost that no assignment is below.
///
/// Half of each output's cost is laid on the pool that it leaves and half on the one that it
/// enters, each at the cheapest link, so the cuts together never cost more than an assignment.
pub(crate) fn assign(model: Model<'_>, guess: &[u8], budget: &Budget) -> Isolated {
    let mut pools = guess.to_vec();
    let mut is_open = vec![true; pools.len()];
    let mut bound = 0;
    for pool in 0..model.nets.pools {
        let Some((cost, mine)) = isolate(model, pool, budget) else {
            continue;
        };
        bound += cost;
        for variable in mine {
            if std::mem::replace(&mut is_open[variable as usize], false) {
                pools[variable as usize] = u8::try_from(pool).expect("there are at most 64 pools");
            }
        }
    }
    Isolated {
        pools,
        is_open,
        bound,
    }
}

/// The least cost of parting a pool, and the variables that are on its side in any such cut.
fn isolate(model: Model<'_>, pool: usize, budget: &Budget) -> Option<(i64, Vec<u32>)> {
    let nets = model.nets;
    let mut cut = Isolation {
        model,
        network: nets.network(),
        leaving: cheapest(model, |other| model.links.cost(pool, other), pool) / 2.0,
        entering: cheapest(model, |other| model.links.cost(other, pool), pool) / 2.0,
        pool,
    };
    for (node, possible) in (0..).zip(&nets.possible) {
        // Dearer than all else together.
        if possible >> pool & 1 == 0 {
            cut.network.cost_at_source(node, FORBIDDEN);
        } else if possible.is_power_of_two() {
            cut.network.cost_at_sink(node, FORBIDDEN);
        }
    }
    for net in nets.iter() {
        cut.add(net);
    }
    let cost = cut.network.solve(budget)?;
    let on_side = |variable: &u32| cut.network.side(*variable) == Side::Source;
    let mine = (index(nets.pools)..index(nets.len())).filter(on_side);
    Some((cost, mine.collect()))
}

const FORBIDDEN: i64 = 1 << 61;

fn cheapest(model: Model<'_>, cost: impl Fn(usize) -> f64, pool: usize) -> f64 {
    let others = pools_of(all(model.nets.pools) & !(1 << pool));
    others.map(cost).fold(f64::INFINITY, f64::min)
}

struct Isolation<'a> {
    model: Model<'a>,
    network: Network,
    /// Half of what a byte costs at least that leaves the pool, or enters it.
    leaving: f64,
    entering: f64,
    pool: usize,
}

impl Isolation<'_> {
    fn add(&mut self, net: Net<'_>) {
        let units = self.model.units;
        match net.owner {
            Owner::Variable(owner) => {
                self.cross(net, owner, false, units.charge(net.bytes * self.leaving));
                self.cross(net, owner, true, units.charge(net.bytes * self.entering));
            }
            Owner::Pools(pools) if pools >> self.pool & 1 == 0 => {
                let from = self.model.links.nearest(pools, self.pool);
                let cost = self.model.links.cost(from, self.pool) / 2.0;
                let charge = units.charge(net.bytes * cost);
                self.cross(net, index(from), true, charge);
            }
            Owner::Pools(pools) if pools.is_power_of_two() => {
                let charge = units.charge(net.bytes * self.leaving);
                self.cross(net, index(self.pool), false, charge);
            }
            Owner::Pools(_) => {}
        }
    }

    /// An output that costs `charge` when its owner is on one side of the cut and any of its
    /// consumers on the other: the pool's own side if it enters.
    fn cross(&mut self, net: Net<'_>, owner: u32, enters: bool, charge: Charge) {
        if let [(consumer, tasks)] = *net.consumers {
            self.apart(enters, owner, consumer, charge.of(tasks));
            return;
        }
        let any = self.network.node();
        self.apart(enters, owner, any, charge.once);
        for &(consumer, tasks) in net.consumers {
            self.apart(enters, any, consumer, charge.once);
            let each = charge.each * i64::from(tasks);
            self.apart(enters, owner, consumer, each);
        }
    }

    /// A cost for the two nodes on different sides. A node whose side is fixed gets no arc: pools
    /// would have very many, all of which a search would go through again and again.
    fn apart(&mut self, enters: bool, from: u32, to: u32, cost: i64) {
        let (inside, outside) = if enters { (to, from) } else { (from, to) };
        if cost == 0 || self.fixed(inside) == Some(false) || self.fixed(outside) == Some(true) {
            return;
        }
        if self.fixed(inside) == Some(true) {
            self.network.cost_at_sink(outside, cost);
        } else if self.fixed(outside) == Some(false) {
            self.network.cost_at_source(inside, cost);
        } else {
            self.network.arc(inside, outside, cost, 0);
        }
    }

    /// Whether a node is on the pool's side, if that is fixed.
    fn fixed(&self, node: u32) -> Option<bool> {
        let possible = *self.model.nets.possible.get(node as usize)?;
        match (possible >> self.pool & 1 == 1, possible.is_power_of_two()) {
            (false, _) => Some(false),
            (true, is_only) => is_only.then_some(true),
        }
    }
}
