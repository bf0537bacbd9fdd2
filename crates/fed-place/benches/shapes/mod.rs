//! Graphs as Dask makes them, of any size.

use fed_place::{Graph, UNKNOWN};

/// A chunk of data, and what a reduction leaves of it; in bytes.
const CHUNK: u64 = 10_000_000;
const REDUCED: u64 = 20_000;

/// Makes a graph of about so many tasks over so many pools.
pub(crate) type Make = fn(usize, usize) -> Tasks;

/// Every shape, by name.
pub(crate) const ALL: [(&str, Make); 6] = [
    ("reduction", reduction),
    ("elementwise", elementwise),
    ("chains", chains),
    ("rechunk", rechunk),
    ("concat", concat),
    ("random", random),
];

/// A task graph that owns its arrays.
#[derive(Default)]
pub(crate) struct Tasks {
    bytes: Vec<u64>,
    indptr: Vec<u32>,
    indices: Vec<u32>,
    allowed: Vec<u64>,
}

impl Tasks {
    fn new() -> Self {
        Self {
            indptr: vec![0],
            ..Self::default()
        }
    }

    fn add(&mut self, bytes: u64, allowed: u64, dependencies: &[u32]) -> u32 {
        let task = u32::try_from(self.bytes.len()).expect("graphs are smaller");
        self.bytes.push(bytes);
        self.allowed.push(allowed);
        self.indices.extend_from_slice(dependencies);
        self.indptr
            .push(u32::try_from(self.indices.len()).expect("graphs are smaller"));
        task
    }

    /// Loads a chunk in a pool.
    fn load(&mut self, pool: usize) -> u32 {
        self.add(CHUNK, 1 << pool, &[])
    }

    /// Reduces tasks to one, eight at a time.
    fn tree(&mut self, mut tasks: Vec<u32>, bytes: u64) -> u32 {
        while tasks.len() > 1 {
            tasks = tasks
                .chunks(8)
                .map(|some| self.add(bytes, 0, some))
                .collect();
        }
        tasks[0]
    }

    /// The graph.
    pub(crate) fn graph(&self) -> Graph<'_> {
        Graph {
            output_bytes: &self.bytes,
            indptr: &self.indptr,
            indices: &self.indices,
            allowed: &self.allowed,
            present: &[],
        }
    }

    /// The number of tasks, and of dependencies.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.bytes.len(), self.indices.len())
    }
}

/// The mean of an array in each pool, and their difference.
fn reduction(tasks: usize, pools: usize) -> Tasks {
    let mut graph = Tasks::new();
    let means: Vec<u32> = (0..pools)
        .map(|pool| {
            let chunks = (0..tasks * 7 / 15 / pools).map(|_| {
                let chunk = graph.load(pool);
                graph.add(REDUCED, 0, &[chunk])
            });
            let chunks = chunks.collect();
            graph.tree(chunks, REDUCED)
        })
        .collect();
    graph.add(REDUCED, 0, &means);
    graph
}

/// Arrays of all pools, chunk by chunk, squared and reduced; equals meet everywhere.
fn elementwise(tasks: usize, pools: usize) -> Tasks {
    let mut graph = Tasks::new();
    let parts: Vec<u32> = (0..tasks / (pools + 3))
        .map(|_| {
            let chunks: Vec<u32> = (0..pools).map(|pool| graph.load(pool)).collect();
            let difference = graph.add(CHUNK, 0, &chunks);
            let square = graph.add(UNKNOWN, 0, &[difference]);
            graph.add(REDUCED, 0, &[square])
        })
        .collect();
    graph.tree(parts, REDUCED);
    graph
}

/// Time series that take in a chunk of another pool at every step, each step needing the last.
fn chains(tasks: usize, pools: usize) -> Tasks {
    const LENGTH: usize = 1000;
    let mut graph = Tasks::new();
    for series in 0..tasks.div_ceil(2 * LENGTH) {
        let mut last = graph.load(series % pools);
        for step in 0..LENGTH.min(tasks / 2) {
            let chunk = graph.load((series + step * 7 / 3) % pools);
            let bytes = CHUNK / 2 + (step as u64 * 7919) % CHUNK;
            last = graph.add(bytes, 0, &[last, chunk]);
        }
    }
    graph
}

/// Arrays of which every eight chunks are cut in eight and put together the other way round, then
/// reduced.
fn rechunk(tasks: usize, pools: usize) -> Tasks {
    const SIDE: usize = 8;
    let mut graph = Tasks::new();
    let mut merged = Vec::new();
    for group in 0..tasks / (SIDE * (SIDE + 2)) {
        let splits: Vec<Vec<u32>> = (0..SIDE)
            .map(|chunk| {
                let chunk = graph.load((group / 3 + chunk * pools / SIDE) % pools);
                (0..SIDE)
                    .map(|_| graph.add(CHUNK / 8, 0, &[chunk]))
                    .collect()
            })
            .collect();
        for column in 0..SIDE {
            let column: Vec<u32> = splits.iter().map(|split| split[column]).collect();
            merged.push(graph.add(CHUNK, 0, &column));
        }
    }
    graph.tree(merged, REDUCED);
    graph
}

/// Arrays of all pools one after the other along an axis, a mean over which every chunk uses.
fn concat(tasks: usize, pools: usize) -> Tasks {
    const COLUMN: usize = 32;
    let mut graph = Tasks::new();
    for _ in 0..tasks / (3 * COLUMN) {
        let chunks: Vec<u32> = (0..COLUMN)
            .map(|at| graph.load(at * pools / COLUMN))
            .collect();
        let parts = chunks
            .iter()
            .map(|chunk| graph.add(CHUNK / 16, 0, &[*chunk]))
            .collect();
        let mean = graph.tree(parts, CHUNK / 16);
        for chunk in chunks {
            graph.add(CHUNK / 4, 0, &[chunk, mean]);
        }
    }
    graph
}

/// Tasks with three dependencies each among the thousand before, a fifth of them pinned.
fn random(tasks: usize, pools: usize) -> Tasks {
    let mut graph = Tasks::new();
    let mut state = 42_u64;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    for task in 0..tasks {
        let mut dependencies: Vec<u32> = (0..3.min(task))
            .map(|_| u32::try_from(task - 1 - next(task.min(1000))).expect("graphs are smaller"))
            .collect();
        dependencies.sort_unstable();
        dependencies.dedup();
        let allowed = if next(5) == 0 { 1 << next(pools) } else { 0 };
        let bytes = 1 + next(1_000_000) as u64;
        graph.add(bytes, allowed, &dependencies);
    }
    graph
}
