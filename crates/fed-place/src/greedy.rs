//! The plain rule that the placement is measured against: sources pinned, every other task where
//! most of the bytes of its dependencies lie.

use crate::graph::Graph;
use crate::links::Links;
use crate::placement::pools_of;
use crate::units::approximate;

/// A pool for every task, in topological `order`: the one to which its inputs are the cheapest to
/// bring, and of equals the first. A task without pinned ancestors runs in the first pool that it
/// may.
pub(crate) fn place(graph: &Graph<'_>, order: &[u32], bytes: &[u64], links: &Links) -> Vec<u8> {
    let mut chosen = vec![0_u8; graph.len()];
    let mut cost = vec![0.0_f64; links.pools()];
    for &task in order {
        let task = task as usize;
        let possible = graph.possible(task, links.pools());
        let mut best = possible.trailing_zeros() as usize;
        if graph.present(task) == 0 && !possible.is_power_of_two() {
            cost.fill(0.0);
            for &from in graph.dependencies(task) {
                let from = from as usize;
                let holders = holders(graph, &chosen, from);
                for pool in pools_of(possible) {
                    let size = approximate(bytes[from]);
                    cost[pool] += size * links.cost(links.nearest(holders, pool), pool);
                }
            }
            for pool in pools_of(possible) {
                if cost[pool] < cost[best] {
                    best = pool;
                }
            }
        }
        chosen[task] = u8::try_from(best).expect("there are at most 64 pools");
    }
    chosen
}

/// The pools from which a task's output can be fetched, as bits.
pub(crate) fn holders(graph: &Graph<'_>, pools: &[u8], task: usize) -> u64 {
    match graph.present(task) {
        0 => 1 << pools[task],
        present => present,
    }
}
