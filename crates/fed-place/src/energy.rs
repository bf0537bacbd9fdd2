//! The cost of an assignment of pools to variables, in whole numbers.

use crate::links::Links;
use crate::nets::{Net, Nets, Owner};
use crate::units::{Charge, Units};

/// Nets, the links that they cross, and the unit of cost.
#[derive(Clone, Copy)]
pub(crate) struct Model<'a> {
    pub(crate) nets: &'a Nets,
    pub(crate) links: &'a Links,
    pub(crate) units: Units,
}

impl Model<'_> {
    /// The charge of an output for being needed in pool `to`, when its variable is in `own`.
    pub(crate) fn charge(self, net: &Net<'_>, own: usize, to: usize) -> Charge {
        let from = match net.owner {
            Owner::Variable(_) => own,
            Owner::Pools(pools) if pools >> to & 1 == 1 => to,
            Owner::Pools(pools) => self.links.nearest(pools, to),
        };
        self.units.charge(net.bytes * self.links.cost(from, to))
    }

    /// The cost when every variable is in its pool.
    pub(crate) fn energy(self, pools: &[u8]) -> i64 {
        self.nets
            .iter()
            .map(|net| self.net_energy(&net, pools))
            .sum()
    }

    /// The assignment of several that costs least; of equals the first.
    pub(crate) fn cheapest(self, assignments: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
        let cheapest = assignments.into_iter().min_by_key(|it| self.energy(it));
        cheapest.expect("there is an assignment to choose")
    }

    /// Puts every variable that may be there into one pool, and leaves the others as they are.
    pub(crate) fn gather(self, pools: &[u8], pool: usize) -> Vec<u8> {
        let mut pools = pools.to_vec();
        for (chosen, possible) in pools.iter_mut().zip(&self.nets.possible) {
            if possible >> pool & 1 == 1 {
                *chosen = u8::try_from(pool).expect("there are at most 64 pools");
            }
        }
        pools
    }

    /// What one output costs of that.
    pub(crate) fn net_energy(self, net: &Net<'_>, pools: &[u8]) -> i64 {
        let own = match net.owner {
            Owner::Variable(variable) => usize::from(pools[variable as usize]),
            Owner::Pools(_) => usize::MAX,
        };
        let mut energy = 0;
        let mut charged = 0_u64;
        for (consumer, tasks) in net.consumers {
            let to = usize::from(pools[*consumer as usize]);
            if to == own {
                continue;
            }
            let charge = self.charge(net, own, to);
            energy += charge.each * i64::from(*tasks);
            if charged >> to & 1 == 0 {
                energy += charge.once;
                charged |= 1 << to;
            }
        }
        energy
    }
}
