//! What is left to decide: variables, and the outputs that may have to cross between them.

use crate::clusters::Clusters;
use crate::graph::{Graph, all};
use crate::links::Links;
use crate::network::Network;
use crate::order::{Consumers, index};
use crate::units::approximate;

/// Where an output comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// From wherever the variable ends.
    Variable(u32),
    /// From the nearest of these pools, as bits.
    Pools(u64),
}

/// The variables of one output's consumers, each with the number of consuming tasks in it.
pub(crate) type Consumer = (u32, u32);

/// An output with consumers elsewhere than its producer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Net<'a> {
    pub(crate) owner: Owner,
    pub(crate) bytes: f64,
    /// Without the owner itself, in order, each once.
    pub(crate) consumers: &'a [Consumer],
}

/// Variables and nets. The first variables are the pools themselves and are fixed; the others are
/// clusters of tasks, in the order of their tasks.
pub(crate) struct Nets {
    pub(crate) pools: usize,
    /// Pools that each variable may end in, as bits.
    pub(crate) possible: Vec<u64>,
    /// Number of tasks of each variable.
    pub(crate) sizes: Vec<u32>,
    /// The variable of each task.
    pub(crate) variables: Vec<u32>,
    owners: Vec<Owner>,
    bytes: Vec<f64>,
    offsets: Vec<u32>,
    consumers: Vec<Consumer>,
}

impl Nets {
    /// Builds the nets between the clusters of a graph.
    pub(crate) fn new(
        graph: &Graph<'_>,
        consumers: &Consumers,
        bytes: &[u64],
        links: &Links,
        clusters: &mut Clusters,
    ) -> Self {
        let pools = links.pools();
        let mut nets = Self {
            pools,
            possible: (0..pools).map(|pool| 1 << pool).collect(),
            sizes: vec![0; pools],
            variables: vec![0; graph.len()],
            owners: Vec::new(),
            bytes: Vec::new(),
            offsets: vec![0],
            consumers: Vec::new(),
        };
        nets.number(graph, clusters);
        let mut found = Vec::new();
        for (task, bytes) in bytes.iter().enumerate() {
            nets.add(graph, task, consumers.of(task), *bytes, &mut found);
        }
        nets
    }

    /// Gives every cluster a number.
    fn number(&mut self, graph: &Graph<'_>, clusters: &mut Clusters) {
        const UNNUMBERED: u32 = u32::MAX;
        let mut numbers = vec![UNNUMBERED; self.pools + graph.len()];
        for (pool, number) in numbers[..self.pools].iter_mut().enumerate() {
            *number = index(pool);
        }
        for task in 0..graph.len() {
            let cluster = clusters.of(task) as usize;
            if numbers[cluster] == UNNUMBERED {
                numbers[cluster] = index(self.possible.len());
                let first = cluster - self.pools;
                self.possible.push(graph.possible(first, self.pools));
                self.sizes.push(0);
            }
            self.variables[task] = numbers[cluster];
            self.sizes[numbers[cluster] as usize] += 1;
        }
    }

    fn add(
        &mut self,
        graph: &Graph<'_>,
        task: usize,
        consumers: &[u32],
        bytes: u64,
        found: &mut Vec<u32>,
    ) {
        if bytes == 0 {
            return;
        }
        let own = self.variables[task];
        let present = graph.present(task);
        let owner = if present != 0 {
            Owner::Pools(present)
        } else if (own as usize) < self.pools {
            Owner::Pools(1 << own)
        } else {
            Owner::Variable(own)
        };
        found.clear();
        let elsewhere = consumers.iter().map(|task| self.variables[*task as usize]);
        // In a pool that holds the output, nothing has to cross.
        let has = |variable: u32| match owner {
            Owner::Variable(own) => variable == own,
            Owner::Pools(pools) => self.possible[variable as usize] & !pools == 0,
        };
        found.extend(elsewhere.filter(|variable| !has(*variable)));
        if found.is_empty() {
            return;
        }
        found.sort_unstable();
        for same in found.chunk_by(|left, right| left == right) {
            self.consumers.push((same[0], index(same.len())));
        }
        self.offsets.push(index(self.consumers.len()));
        self.owners.push(owner);
        self.bytes.push(approximate(bytes));
    }

    /// The number of variables, the pools included.
    pub(crate) fn len(&self) -> usize {
        self.possible.len()
    }

    /// Every net.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Net<'_>> {
        self.owners
            .iter()
            .zip(&self.bytes)
            .zip(self.offsets.windows(2))
            .map(|((&owner, &bytes), ends)| Net {
                owner,
                bytes,
                consumers: &self.consumers[ends[0] as usize..ends[1] as usize],
            })
    }

    /// The number of nets, and of their consumers.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.owners.len(), self.consumers.len())
    }

    /// A network with a node for each variable, and room for what the outputs need.
    pub(crate) fn network(&self) -> Network {
        let (count, consumers) = self.size();
        let mut network = Network::new(self.len() + 2 * count, 2 * consumers + 2 * count);
        for _ in 0..self.len() {
            network.node();
        }
        network
    }

    /// What building a network of it counts as steps of a cut.
    pub(crate) fn effort(&self) -> u64 {
        const STEPS: u64 = 5;
        STEPS * (self.len() + self.owners.len() + self.consumers.len()) as u64
    }

    /// The sum that [`crate::units::Units::new`] asks for.
    pub(crate) fn total_weight(&self, surcharge: f64) -> f64 {
        let spread = |net: &Net<'_>| {
            let consumers: f64 = net
                .consumers
                .iter()
                .map(|(_, tasks)| f64::from(*tasks))
                .sum();
            let pools = net.consumers.len().min(self.pools);
            approximate(pools as u64) + surcharge * consumers
        };
        self.iter().map(|net| net.bytes * spread(&net)).sum()
    }

    /// Tells for every variable whether something ties it to a pool: a pin, a restriction, or an
    /// output that is somewhere, at the end of whatever chain of nets.
    pub(crate) fn tied(&self) -> Vec<bool> {
        let mut sets = Sets::new(self.len());
        let anchor = 0;
        for pool in 1..self.pools {
            sets.unite(anchor, index(pool));
        }
        for (variable, possible) in self.possible.iter().enumerate() {
            if *possible != all(self.pools) {
                sets.unite(anchor, index(variable));
            }
        }
        for net in self.iter() {
            let owner = match net.owner {
                Owner::Variable(variable) => variable,
                Owner::Pools(_) => anchor,
            };
            for (consumer, _) in net.consumers {
                sets.unite(owner, *consumer);
            }
        }
        let tied = sets.find(anchor);
        (0..index(self.len()))
            .map(|variable| sets.find(variable) == tied)
            .collect()
    }
}

/// Disjoint sets; the least member stands for each.
pub(crate) struct Sets(Vec<u32>);

impl Sets {
    pub(crate) fn new(len: usize) -> Self {
        Self((0..index(len)).collect())
    }

    pub(crate) fn find(&mut self, mut at: u32) -> u32 {
        while self.0[at as usize] != at {
            let above = self.0[self.0[at as usize] as usize];
            self.0[at as usize] = above;
            at = above;
        }
        at
    }

    pub(crate) fn unite(&mut self, left: u32, right: u32) {
        let (left, right) = (self.find(left), self.find(right));
        self.0[left.max(right) as usize] = left.min(right);
    }
}
