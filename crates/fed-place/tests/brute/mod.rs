//! Random task graphs, and the least cost of any placement, by trying them all.

use std::ops::RangeInclusive;

use fed_place::{Graph, Links, Placement, UNKNOWN};
use proptest::collection::vec;
use proptest::prelude::*;

/// A graph with all that belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) pools: usize,
    pub(crate) surcharge: f64,
    cost: Vec<f64>,
    bytes: Vec<u64>,
    indptr: Vec<u32>,
    indices: Vec<u32>,
    allowed: Vec<u64>,
    present: Vec<u64>,
}

/// Graphs over this many pools, with at most so many tasks that are not pinned.
pub(crate) fn case(pools: RangeInclusive<usize>, free: usize) -> impl Strategy<Value = Case> {
    let shape = (
        pools,
        1..=2 * free,
        prop_oneof![Just(0.0), Just(0.05), Just(0.4)],
        any::<bool>(),
    );
    shape.prop_flat_map(move |(pools, tasks, surcharge, is_uniform)| {
        let costs = if is_uniform {
            Just(1.0).boxed()
        } else {
            prop_oneof![Just(0.0), Just(1.0), Just(10.0), 0.5..3.0_f64].boxed()
        };
        let task = (
            prop_oneof![
                1 => Just(0), 1 => Just(UNKNOWN), 4 => Just(1), 4 => Just(10), 2 => Just(1_000_000),
                4 => 1..100_u64,
            ],
            vec(any::<prop::sample::Index>(), 0..4),
            prop_oneof![4 => Just(0), 5 => (0..pools).prop_map(|it| 1_u64 << it), 1 => 1..1_u64 << pools],
            prop_oneof![12 => Just(0), 1 => 1..1_u64 << pools],
        );
        (vec(costs, pools * pools), vec(task, tasks)).prop_map(move |(cost, tasks)| {
            let mut case = Case {
                pools,
                surcharge,
                cost,
                bytes: Vec::new(),
                indptr: vec![0],
                indices: Vec::new(),
                allowed: Vec::new(),
                present: Vec::new(),
            };
            let mut open = 0;
            for (task, (bytes, dependencies, allowed, present)) in tasks.into_iter().enumerate() {
                let mut names: Vec<u32> = if task == 0 {
                    Vec::new()
                } else {
                    dependencies.iter().map(|it| u32::try_from(it.index(task)).unwrap()).collect()
                };
                names.sort_unstable();
                names.dedup();
                case.bytes.push(bytes);
                case.indices.extend(names);
                case.indptr.push(u32::try_from(case.indices.len()).unwrap());
                let is_open = present == 0 && !allowed.is_power_of_two();
                open += usize::from(is_open);
                case.allowed.push(if is_open && open > free { 1 } else { allowed });
                case.present.push(present);
            }
            case
        })
    })
}

impl Case {
    pub(crate) fn graph(&self) -> Graph<'_> {
        Graph {
            output_bytes: &self.bytes,
            indptr: &self.indptr,
            indices: &self.indices,
            allowed: &self.allowed,
            present: &self.present,
        }
    }

    pub(crate) fn links(&self) -> Links {
        Links::new(self.pools, &self.cost).unwrap()
    }

    fn dependencies(&self, task: usize) -> &[u32] {
        &self.indices[self.indptr[task] as usize..self.indptr[task + 1] as usize]
    }

    pub(crate) fn may_run(&self, task: usize, pool: usize) -> bool {
        match (self.present[task], self.allowed[task]) {
            (0, 0) => true,
            (0, mask) | (mask, _) => mask >> pool & 1 == 1,
        }
    }

    /// Sizes with the unknown ones filled in.
    fn sizes(&self) -> Vec<u64> {
        let mut sizes = self.bytes.clone();
        for task in 0..sizes.len() {
            if sizes[task] == UNKNOWN {
                let named = self.dependencies(task).iter().map(|it| sizes[*it as usize]);
                let known = if self.present[task] == 0 {
                    named.max()
                } else {
                    None
                };
                sizes[task] = known.unwrap_or(0);
            }
        }
        sizes
    }

    /// The pools of a placement, those of free tasks filled in so that nothing of theirs crosses
    /// that need not.
    pub(crate) fn filled(&self, placement: &Placement) -> Vec<usize> {
        let mut pools: Vec<usize> = placement
            .pools
            .iter()
            .map(|pool| pool.map_or(0, usize::from))
            .collect();
        let tied = self.tied_to_a_pool();
        let free: Vec<usize> = (0..pools.len())
            .filter(|task| placement.pools[*task].is_none() && tied[*task])
            .collect();
        // They are no neighbours of one another, so each can be set by itself.
        for task in free {
            let best = (0..self.pools).min_by(|left, right| {
                let cost = |pool: usize| {
                    let mut with = pools.clone();
                    with[task] = pool;
                    self.cost(&with)
                };
                cost(*left).total_cmp(&cost(*right))
            });
            pools[task] = best.unwrap();
        }
        pools
    }

    /// Tells which tasks hang together with something that is not in every pool: a pin, or an
    /// output that is there.
    pub(crate) fn tied_to_a_pool(&self) -> Vec<bool> {
        let all = (1_u64 << self.pools) - 1;
        let sizes = self.sizes();
        let bound = |task: usize| match (self.present[task], self.allowed[task]) {
            (0, 0) => false,
            (0, mask) | (mask, _) => mask != all,
        };
        let mut tied: Vec<bool> = (0..self.bytes.len()).map(bound).collect();
        for _ in 0..tied.len() {
            for task in (0..tied.len()).filter(|task| self.present[*task] == 0) {
                for from in self.dependencies(task).iter().map(|from| *from as usize) {
                    if sizes[from] > 0 && self.present[from] != all {
                        let either = tied[task] || tied[from];
                        (tied[task], tied[from]) = (either, either);
                    }
                }
            }
        }
        tied
    }

    /// The cost by the model, written anew from its definition.
    pub(crate) fn cost(&self, pools: &[usize]) -> f64 {
        let sizes = self.sizes();
        let mut total = 0.0;
        for from in 0..pools.len() {
            for to in 0..self.pools {
                let readers = (0..pools.len())
                    .filter(|task| self.present[*task] == 0 && pools[*task] == to)
                    .filter(|task| {
                        self.dependencies(*task)
                            .contains(&u32::try_from(from).unwrap())
                    })
                    .count();
                if readers == 0 {
                    continue;
                }
                let price = |pool: usize| {
                    if pool == to {
                        0.0
                    } else {
                        self.cost[pool * self.pools + to]
                    }
                };
                let price = if self.present[from] == 0 {
                    price(pools[from])
                } else {
                    let holders = (0..self.pools).filter(|it| self.present[from] >> it & 1 == 1);
                    holders.map(price).fold(f64::INFINITY, f64::min)
                };
                let extra = f64::from(u32::try_from(readers - 1).unwrap());
                #[expect(clippy::cast_precision_loss, reason = "the sizes are small")]
                let size = sizes[from] as f64;
                total += size * price * (1.0 + self.surcharge * extra);
            }
        }
        total
    }

    /// The least cost of all placements.
    pub(crate) fn minimum(&self) -> f64 {
        let choices: Vec<Vec<usize>> = (0..self.bytes.len())
            .map(|task| match self.present[task] {
                0 => (0..self.pools)
                    .filter(|pool| self.may_run(task, *pool))
                    .collect(),
                _ => vec![0],
            })
            .collect();
        let mut at = vec![0; choices.len()];
        let mut least = f64::INFINITY;
        loop {
            let pools: Vec<usize> = at.iter().zip(&choices).map(|(at, all)| all[*at]).collect();
            least = least.min(self.cost(&pools));
            let Some(next) = (0..at.len()).find(|task| at[*task] + 1 < choices[*task].len()) else {
                return least;
            };
            at[next] += 1;
            at[..next].fill(0);
        }
    }
}
