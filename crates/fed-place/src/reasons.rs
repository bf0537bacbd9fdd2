//! Why each task runs where it does, and which tasks may as well run anywhere.

use crate::graph::Graph;
use crate::greedy::holders;
use crate::links::Links;
use crate::options::Options;
use crate::order::Consumers;
use crate::placement::{Reason, pools_of};
use crate::units::approximate;

/// The reasons and savings of all tasks; see [`crate::Placement`].
pub(crate) struct Reasons {
    pub(crate) reasons: Vec<Reason>,
    pub(crate) savings: Vec<f64>,
}

/// Pools that read an output, as bits: at all, and with more than one task.
#[derive(Clone, Copy, Default)]
struct Readers {
    any: u64,
    many: u64,
}

/// Finds the reasons when task `t` runs in pool `pools[t]`. `tied` tells whether a chain of outputs
/// ties a task to some pool.
pub(crate) fn find(
    graph: &Graph<'_>,
    consumers: &Consumers,
    bytes: &[u64],
    links: &Links,
    options: &Options,
    pools: &[u8],
    tied: impl Fn(usize) -> bool,
) -> Reasons {
    let mut readers = vec![Readers::default(); graph.len()];
    for (task, pool) in pools.iter().enumerate() {
        let pool = 1 << pool;
        for &from in graph.dependencies(task) {
            let of = &mut readers[from as usize];
            of.many |= of.any & pool;
            of.any |= pool;
        }
    }
    let mut moves = Moves {
        graph,
        consumers,
        bytes,
        links,
        surcharge: options.surcharge,
        pools,
        readers,
        tasks: vec![0; links.pools()],
        extra: vec![Change::default(); links.pools()],
    };
    let mut found = Reasons {
        reasons: vec![Reason::Free; graph.len()],
        savings: vec![0.0; graph.len()],
    };
    let mut is_free = vec![false; graph.len()];
    for task in 0..graph.len() {
        let possible = graph.possible(task, links.pools());
        found.reasons[task] = if graph.present(task) != 0 {
            Reason::Present
        } else if possible.is_power_of_two() && graph.allowed[task] != 0 {
            Reason::Pinned
        } else if !tied(task) {
            is_free[task] = true;
            Reason::Free
        } else {
            let verdict = moves.weigh(task, possible);
            // Beside a free task, what it costs to be elsewhere is not known.
            let neighbours = graph.dependencies(task).iter().chain(consumers.of(task));
            let beside_free = || neighbours.clone().any(|other| is_free[*other as usize]);
            if graph.allowed[task] == 0 && verdict.worst <= options.slack && !beside_free() {
                is_free[task] = true;
                Reason::Free
            } else {
                found.savings[task] = verdict.saving.max(0.0);
                verdict.reason
            }
        };
    }
    let is_needed_there = |task: &usize| {
        let mut users = consumers.of(*task).iter().map(|user| *user as usize);
        users.all(|user| !is_free[user] && pools[user] == pools[*task])
    };
    // A free task that needs nothing is pushed to where its output is used, if that is one place:
    // to fetch even a byte from elsewhere would take a round trip.
    for task in (0..graph.len()).filter(|task| is_free[*task] && tied(*task)) {
        if graph.dependencies(task).is_empty() && is_needed_there(&task) {
            found.reasons[task] = Reason::WithConsumers;
        }
    }
    found
}

/// Puts every task that needs nothing, and may run anywhere, where its output is used, if that is
/// one place. It never costs more there. Tells whether it has moved any.
pub(crate) fn push_roots(graph: &Graph<'_>, consumers: &Consumers, pools: &mut [u8]) -> bool {
    let mut has_moved = false;
    for task in 0..graph.len() {
        let is_root = graph.dependencies(task).is_empty() && graph.present(task) == 0;
        if !is_root || graph.allowed[task] != 0 {
            continue;
        }
        let mut users = consumers.of(task).iter().map(|user| pools[*user as usize]);
        if let Some(first) = users.next()
            && users.all(|pool| pool == first)
        {
            has_moved |= std::mem::replace(&mut pools[task], first) != first;
        }
    }
    has_moved
}

/// What moving one task would do.
struct Verdict {
    /// What the best other pool costs more.
    saving: f64,
    /// What the worst other pool costs more at most, wherever free tasks run.
    worst: f64,
    reason: Reason,
}

/// What a pool costs more than the task's own.
#[derive(Clone, Copy, Default)]
struct Change {
    inputs: f64,
    /// As if nothing else of the pool read them.
    inputs_at_most: f64,
    output: f64,
}

struct Moves<'a> {
    graph: &'a Graph<'a>,
    consumers: &'a Consumers,
    bytes: &'a [u64],
    links: &'a Links,
    surcharge: f64,
    pools: &'a [u8],
    readers: Vec<Readers>,
    /// Consumers of the task by pool.
    tasks: Vec<u32>,
    extra: Vec<Change>,
}

impl Moves<'_> {
    fn weigh(&mut self, task: usize, possible: u64) -> Verdict {
        let own = usize::from(self.pools[task]);
        let others = possible & !(1 << own);
        self.extra.fill(Change::default());
        for &from in self.graph.dependencies(task) {
            self.weigh_input(from as usize, own, others);
        }
        self.weigh_output(task, own, others);
        let mut verdict = Verdict {
            saving: f64::INFINITY,
            worst: 0.0,
            reason: Reason::WithInputs,
        };
        for pool in pools_of(others) {
            let Change {
                inputs,
                inputs_at_most,
                output,
            } = self.extra[pool];
            if inputs + output < verdict.saving {
                verdict.saving = inputs + output;
                verdict.reason = if inputs >= output {
                    Reason::WithInputs
                } else {
                    Reason::WithConsumers
                };
            }
            verdict.worst = verdict.worst.max(inputs_at_most + output);
        }
        verdict
    }

    fn weigh_input(&mut self, from: usize, own: usize, others: u64) {
        let holders = holders(self.graph, self.pools, from);
        let size = approximate(self.bytes[from]);
        let cost = |to: usize| match holders >> to & 1 {
            1 => 0.0,
            _ => size * self.links.cost(self.links.nearest(holders, to), to),
        };
        let share = |is_read: bool| if is_read { self.surcharge } else { 1.0 };
        let readers = self.readers[from];
        let here = cost(own) * share(readers.many >> own & 1 == 1);
        for pool in pools_of(others) {
            let there = cost(pool);
            self.extra[pool].inputs += there * share(readers.any >> pool & 1 == 1) - here;
            self.extra[pool].inputs_at_most += there - here;
        }
    }

    fn weigh_output(&mut self, task: usize, own: usize, others: u64) {
        let mut needed = 0_u64;
        for &consumer in self.consumers.of(task) {
            let pool = usize::from(self.pools[consumer as usize]);
            self.tasks[pool] += 1;
            needed |= 1 << pool;
        }
        let size = approximate(self.bytes[task]);
        for to in pools_of(needed) {
            let tasks = std::mem::take(&mut self.tasks[to]);
            let size = size * (1.0 + self.surcharge * f64::from(tasks - 1));
            for pool in pools_of(others) {
                let more = self.links.cost(pool, to) - self.links.cost(own, to);
                self.extra[pool].output += size * more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Roots 0 to 3, whose users are: 4, in pool 1; 4 and 5, in two pools; 5, but only pool 1 is
    /// allowed; none.
    #[test]
    fn roots_are_pushed_to_where_all_their_users_are() {
        let graph = Graph {
            output_bytes: &[9; 6],
            indptr: &[0, 0, 0, 0, 0, 2, 4],
            indices: &[0, 1, 1, 2],
            allowed: &[0, 0, 2, 0, 0, 0],
            present: &[],
        };
        let consumers = Consumers::new(&graph);
        let mut pools = [0, 0, 1, 0, 1, 0];
        assert!(push_roots(&graph, &consumers, &mut pools));
        assert_eq!(pools, [1, 0, 1, 0, 1, 0]);
        assert!(!push_roots(&graph, &consumers, &mut pools));
    }

    #[test]
    fn what_is_there_already_is_no_root() {
        let graph = Graph {
            output_bytes: &[9; 2],
            indptr: &[0, 0, 1],
            indices: &[0],
            allowed: &[0; 2],
            present: &[1, 0],
        };
        let consumers = Consumers::new(&graph);
        let mut pools = [0, 1];
        assert!(!push_roots(&graph, &consumers, &mut pools));
        assert_eq!(pools, [0, 1]);
    }
}
