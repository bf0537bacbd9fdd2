//! An expansion: the best set of variables to move into one pool, as a minimum cut.
//!
//! Variables on the source's side keep their pool, those on the sink's side move. Where a move
//! brings a producer *nearer* to a consumer that keeps its pool, the gain cannot be told by a cut
//! and is left out: what is found costs no more than what it is thought to.

use crate::energy::Model;
use crate::nets::{Consumer, Net, Owner};
use crate::network::{Budget, Network, Side};
use crate::order::index;
use crate::units::Charge;

/// Returns `pools` with some variables moved to `target`, of those that are open, or `None` when no move is known to cost
/// less, or when finding out takes more than `budget` steps.
pub(crate) fn expand(
    model: Model<'_>,
    pools: &[u8],
    target: usize,
    is_open: &[bool],
    budget: &Budget,
) -> Option<Vec<u8>> {
    let nets = model.nets;
    budget.take(nets.effort())?;
    let network = nets.network();
    let mut expansion = Expansion {
        model,
        network,
        pools,
        target,
        is_open,
        group: Vec::new(),
    };
    let mut order = Vec::new();
    for net in nets.iter() {
        expansion.add(&net, &mut order);
    }
    expansion.network.solve(budget)?;
    let mut moved = pools.to_vec();
    let mut has_moved = false;
    for variable in index(nets.pools)..index(nets.len()) {
        if expansion.may_move(variable) && expansion.network.side(variable) == Side::Sink {
            moved[variable as usize] = u8::try_from(target).expect("there are at most 64 pools");
            has_moved = true;
        }
    }
    has_moved.then_some(moved)
}

struct Expansion<'a> {
    model: Model<'a>,
    network: Network,
    pools: &'a [u8],
    target: usize,
    is_open: &'a [bool],
    /// Consumers of one net in one pool: variable and number of tasks.
    group: Vec<(u32, u32)>,
}

impl Expansion<'_> {
    fn may_move(&self, variable: u32) -> bool {
        let nets = self.model.nets;
        self.is_open[variable as usize]
            && nets.possible[variable as usize] >> self.target & 1 == 1
            && usize::from(self.pools[variable as usize]) != self.target
    }

    fn add(&mut self, net: &Net<'_>, order: &mut Vec<(u8, u32, u32)>) {
        let (own, mover) = match net.owner {
            Owner::Variable(owner) => (
                usize::from(self.pools[owner as usize]),
                self.may_move(owner).then_some(owner),
            ),
            Owner::Pools(_) => (usize::MAX, None),
        };
        let is_fixed = |(consumer, _): &Consumer| !self.may_move(*consumer);
        if mover.is_none() && net.consumers.iter().all(is_fixed) {
            return;
        }
        order.clear();
        let consumers = net.consumers.iter();
        order.extend(consumers.map(|&(it, tasks)| (self.pools[it as usize], it, tasks)));
        order.sort_unstable();
        for same in order.chunk_by(|left, right| left.0 == right.0) {
            let to = usize::from(same[0].0);
            if to == self.target {
                continue;
            }
            self.group.clear();
            self.group
                .extend(same.iter().map(|&(_, it, tasks)| (it, tasks)));
            let now = if to == own {
                Charge::NONE
            } else {
                self.model.charge(net, own, to)
            };
            let then = mover.map(|owner| (owner, self.model.charge(net, self.target, to)));
            self.keep(now, then);
        }
        if own != self.target {
            let charge = self.model.charge(net, own, self.target);
            if charge != Charge::NONE {
                self.arrive(net, mover, charge);
            }
        }
    }

    /// The cost of the consumers in `group` that keep their pool: `now`, or `then` if the owner
    /// moves.
    fn keep(&mut self, now: Charge, then: Option<(u32, Charge)>) {
        let group = std::mem::take(&mut self.group);
        let stays = group.iter().any(|(consumer, _)| !self.may_move(*consumer));
        let more = then.map(|(owner, then)| (owner, then.once - now.once, then.each - now.each));
        if stays {
            if let Some((owner, once, _)) = more {
                self.owner_moves(owner, once);
            }
        } else {
            let node = match *group {
                [(consumer, _)] => consumer,
                _ => self.network.node(),
            };
            let dearest = now.once.max(more.map_or(0, |(_, once, _)| now.once + once));
            self.network.cost_at_source(node, now.once);
            if let Some((owner, once, _)) = more {
                self.apart(node, owner, once);
            }
            for (consumer, _) in group.iter().filter(|(consumer, _)| *consumer != node) {
                self.apart(*consumer, node, dearest);
            }
        }
        for &(consumer, tasks) in &group {
            let tasks = i64::from(tasks);
            if self.may_move(consumer) {
                self.network.cost_at_source(consumer, now.each * tasks);
                if let Some((owner, _, each)) = more {
                    self.apart(consumer, owner, each * tasks);
                }
            } else if let Some((owner, _, each)) = more {
                self.owner_moves(owner, each * tasks);
            }
        }
        self.group = group;
    }

    /// What the move of an owner costs more (or less, below 0) for certain.
    fn owner_moves(&mut self, owner: u32, cost: i64) {
        if cost >= 0 {
            self.network.cost_at_sink(owner, cost);
        } else {
            self.network.cost_at_source(owner, -cost);
        }
    }

    /// The cost of consumers that are in the target, or move there, while the owner does not.
    fn arrive(&mut self, net: &Net<'_>, mover: Option<u32>, charge: Charge) {
        let target = self.target;
        let is_there = |this: &Self, it: u32| usize::from(this.pools[it as usize]) == target;
        let there: u32 = net
            .consumers
            .iter()
            .filter(|(consumer, _)| is_there(self, *consumer))
            .map(|(_, tasks)| tasks)
            .sum();
        if there > 0
            && let Some(owner) = mover
        {
            self.network.cost_at_source(owner, charge.of(there));
        }
        let mut movers = 0;
        let mut single = 0;
        for &(consumer, tasks) in net.consumers {
            if self.may_move(consumer) {
                self.owner_apart(mover, consumer, charge.each * i64::from(tasks));
                movers += 1;
                single = consumer;
            }
        }
        if there > 0 || movers == 0 {
            return;
        }
        if movers == 1 {
            self.owner_apart(mover, single, charge.once);
            return;
        }
        let any = self.network.node();
        self.owner_apart(mover, any, charge.once);
        for (consumer, _) in net.consumers {
            if self.may_move(*consumer) {
                self.apart(any, *consumer, charge.once);
            }
        }
    }

    /// A cost for `node` on the sink's side while the owner is not, or is fixed.
    fn owner_apart(&mut self, owner: Option<u32>, node: u32, cost: i64) {
        match owner {
            Some(owner) => self.apart(owner, node, cost),
            None => self.network.cost_at_sink(node, cost),
        }
    }

    /// A cost for `kept` on the source's side and `moved` on the sink's; none below 0.
    fn apart(&mut self, kept: u32, moved: u32, cost: i64) {
        if cost > 0 {
            self.network.arc(kept, moved, cost, 0);
        }
    }
}
