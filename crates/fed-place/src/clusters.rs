//! Tasks that run in the same pool in some best placement, found before anything is solved.
//!
//! A task follows another when, wherever all others run, it costs no more beside that one than
//! anywhere else: what it saves there outweighs all else that it reads and writes. Most tasks of a
//! graph are settled so: a reduction follows the chunk it reduces, and with it the pin.

use crate::graph::{Graph, all};
use crate::links::Links;
use crate::order::{Consumers, index};
use crate::placement::pools_of;
use crate::units::approximate;

/// The clusters of a graph. Cluster `q` below the number of pools is that of pool `q` itself; the
/// others are named after their tasks: `pools + task`.
pub(crate) struct Clusters {
    pools: usize,
    parents: Vec<u32>,
}

impl Clusters {
    /// The cluster of a task.
    pub(crate) fn of(&mut self, task: usize) -> u32 {
        self.find(index(self.pools + task))
    }

    fn find(&mut self, mut id: u32) -> u32 {
        while self.parents[id as usize] != id {
            let above = self.parents[self.parents[id as usize] as usize];
            self.parents[id as usize] = above;
            id = above;
        }
        id
    }
}

/// Bounds over all pools that a task may be taken from, for every pool it may be taken to.
struct Bounds {
    /// What a byte read saves at least.
    saved: Vec<f64>,
    /// What a byte written to the pool saves at least.
    spared: Vec<f64>,
    /// What a byte read costs at most.
    read: Vec<f64>,
    /// What a byte written costs more at most: in the pool it is taken from, and in a third.
    written: Vec<[f64; 2]>,
}

impl Bounds {
    fn new(links: &Links) -> Self {
        let pools = links.pools();
        let others = |to: usize| (0..pools).filter(move |pool| *pool != to);
        let least = |costs: &mut dyn Iterator<Item = f64>| costs.fold(f64::INFINITY, f64::min);
        let most = |costs: &mut dyn Iterator<Item = f64>| costs.fold(0.0, f64::max);
        Self {
            saved: (0..pools)
                .map(|to| least(&mut others(to).map(|pool| links.cost(to, pool))))
                .collect(),
            spared: (0..pools)
                .map(|to| least(&mut others(to).map(|pool| links.cost(pool, to))))
                .collect(),
            read: (0..pools)
                .map(|to| most(&mut others(to).map(|pool| links.cost(pool, to))))
                .collect(),
            written: (0..pools)
                .map(|to| {
                    let source = most(&mut others(to).map(|pool| links.cost(to, pool)));
                    let third = most(&mut others(to).flat_map(|from| {
                        others(to)
                            .filter(move |third| *third != from)
                            .map(move |third| links.cost(to, third) - links.cost(from, third))
                    }));
                    [source, third]
                })
                .collect(),
        }
    }
}

/// What a task reads from, or writes to, one cluster.
#[derive(Clone, Copy)]
struct Share {
    cluster: u32,
    bytes: f64,
    /// Bytes that need not be moved once the task is there.
    saved: f64,
}

/// Finds clusters: one pass along the dependencies, one against them, and one along again. Linear
/// but for the dependencies of one task, which are sorted.
pub(crate) fn find(
    graph: &Graph<'_>,
    order: &[u32],
    consumers: &Consumers,
    bytes: &[u64],
    links: &Links,
    surcharge: f64,
) -> Clusters {
    let mut search = Search::new(graph, consumers, bytes, links, surcharge);
    for &task in order {
        search.follow_inputs(task as usize);
    }
    for &task in order.iter().rev() {
        search.follow_consumers(task as usize);
    }
    for &task in order {
        search.follow_inputs(task as usize);
    }
    search.clusters
}

struct Search<'a> {
    graph: &'a Graph<'a>,
    consumers: &'a Consumers,
    bytes: &'a [u64],
    bounds: Bounds,
    surcharge: f64,
    clusters: Clusters,
    /// Consumers of each task that are in another cluster.
    outside: Vec<u32>,
    /// Tasks that may still follow another: bound to no pool, and in a cluster of their own.
    loose: Vec<bool>,
    shares: Vec<Share>,
}

impl<'a> Search<'a> {
    fn new(
        graph: &'a Graph<'a>,
        consumers: &'a Consumers,
        bytes: &'a [u64],
        links: &Links,
        surcharge: f64,
    ) -> Self {
        let (tasks, pools) = (graph.len(), links.pools());
        let mut search = Self {
            graph,
            consumers,
            bytes,
            bounds: Bounds::new(links),
            surcharge,
            clusters: Clusters {
                pools,
                parents: (0..index(pools + tasks)).collect(),
            },
            outside: (0..tasks).map(|task| consumers.count(task)).collect(),
            loose: vec![false; tasks],
            shares: Vec::new(),
        };
        for task in 0..tasks {
            let possible = graph.possible(task, pools);
            if possible.is_power_of_two() {
                search.clusters.parents[pools + task] = possible.trailing_zeros();
            }
            search.loose[task] = graph.present(task) == 0 && possible == all(pools) && pools > 1;
        }
        for task in 0..tasks {
            let cluster = search.clusters.of(task);
            for &consumer in consumers.of(task) {
                if search.clusters.of(consumer as usize) == cluster {
                    search.outside[task] -= 1;
                }
            }
        }
        search
    }

    /// Lets a task follow the cluster from which it reads most, if that outweighs the rest.
    fn follow_inputs(&mut self, task: usize) {
        if !self.loose[task] || self.graph.dependencies(task).is_empty() {
            return;
        }
        let read = self.collect_inputs(task);
        let mut best = self.shares[0];
        for share in &self.shares {
            if share.saved > best.saved {
                best = *share;
            }
        }
        let rest = read - best.bytes;
        if self.outweighs(task, best, rest) {
            self.join(task, best.cluster);
        }
    }

    /// Fills `shares` with what a task reads, by cluster; returns the bytes in all.
    fn collect_inputs(&mut self, task: usize) -> f64 {
        let mut shares = std::mem::take(&mut self.shares);
        shares.clear();
        let mut read = 0.0;
        for &from in self.graph.dependencies(task) {
            let from = from as usize;
            let bytes = approximate(self.bytes[from]);
            read += bytes;
            // A second consumer out there would need it all the same.
            let saved = if self.outside[from] == 1 { bytes } else { 0.0 };
            shares.push(Share {
                cluster: self.clusters.of(from),
                bytes,
                saved,
            });
        }
        shares.sort_by_key(|share| share.cluster);
        shares.dedup_by(|next, sum| {
            let same = next.cluster == sum.cluster;
            if same {
                sum.bytes += next.bytes;
                sum.saved += next.saved;
            }
            same
        });
        self.shares = shares;
        read
    }

    fn outweighs(&mut self, task: usize, best: Share, rest: f64) -> bool {
        let Some(possible) = self.possible(best.cluster) else {
            return false;
        };
        let consumers = self.outside[task];
        let thirds = consumers
            .saturating_sub(1)
            .min(u32::try_from(self.bounds.read.len() - 2).unwrap_or(0));
        let written = approximate(self.bytes[task])
            * (1.0 + self.surcharge * f64::from(consumers.saturating_sub(1)));
        let bounds = &self.bounds;
        pools_of(possible).all(|to| {
            let [source, third] = bounds.written[to];
            let more = if consumers == 0 {
                0.0
            } else {
                written * (source + f64::from(thirds) * third)
            };
            best.saved * bounds.saved[to] >= rest * bounds.read[to] + more
        })
    }

    /// The pools that a cluster may end in; `None` if it is no one place that could be followed.
    fn possible(&self, cluster: u32) -> Option<u64> {
        let cluster = cluster as usize;
        if cluster < self.clusters.pools {
            return Some(1 << cluster);
        }
        let task = cluster - self.clusters.pools;
        let is_placed = self.graph.present(task) == 0;
        is_placed.then(|| self.graph.possible(task, self.clusters.pools))
    }

    /// Lets a task follow its consumers, if they are in one cluster and its output outweighs what
    /// it reads from elsewhere.
    fn follow_consumers(&mut self, task: usize) {
        if !self.loose[task] {
            return;
        }
        let Some(&first) = self.consumers.of(task).first() else {
            return;
        };
        let cluster = self.clusters.of(first as usize);
        let is_one = self
            .consumers
            .of(task)
            .iter()
            .all(|consumer| self.clusters.of(*consumer as usize) == cluster);
        let Some(possible) = self.possible(cluster).filter(|_| is_one) else {
            return;
        };
        let mut rest = 0.0;
        for &from in self.graph.dependencies(task) {
            if self.clusters.of(from as usize) != cluster {
                rest += approximate(self.bytes[from as usize]);
            }
        }
        let written = approximate(self.bytes[task]);
        let bounds = &self.bounds;
        if pools_of(possible).all(|to| written * bounds.spared[to] >= rest * bounds.read[to]) {
            self.join(task, cluster);
        }
    }

    /// Moves a loose task into a cluster that is not its own.
    fn join(&mut self, task: usize, cluster: u32) {
        for &from in self.graph.dependencies(task) {
            if self.clusters.of(from as usize) == cluster {
                self.outside[from as usize] -= 1;
            }
        }
        for &consumer in self.consumers.of(task) {
            if self.clusters.of(consumer as usize) == cluster {
                self.outside[task] -= 1;
            }
        }
        let pools = self.clusters.pools;
        self.clusters.parents[pools + task] = cluster;
        self.loose[task] = false;
        if cluster as usize >= pools {
            self.loose[cluster as usize - pools] = false;
        }
    }
}
