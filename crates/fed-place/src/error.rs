//! What can be wrong with the input.

use thiserror::Error;

/// Why there is no placement. Tasks are named by their index.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PlaceError {
    /// Two arrays disagree about the number of tasks.
    #[error("{array} has {found} entries, but the graph has {tasks} tasks: it needs {expected}")]
    Length {
        /// The array's name.
        array: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
        /// The length of `output_bytes`.
        tasks: usize,
    },
    /// The offsets of the dependencies do not rise from 0 to the number of dependencies.
    #[error(
        "indptr[{at}] is {value}: offsets start at 0, never fall and end at {dependencies}, the \
         length of indices"
    )]
    Offset {
        /// Where in `indptr`.
        at: usize,
        /// What stands there.
        value: u32,
        /// The length of `indices`.
        dependencies: usize,
    },
    /// A dependency is no task.
    #[error("task {task} depends on task {dependency}, but the graph has only {tasks} tasks")]
    Dependency {
        /// The task.
        task: usize,
        /// What it names.
        dependency: u32,
        /// The number of tasks.
        tasks: usize,
    },
    /// Tasks wait for one another.
    #[error("task {task} waits for itself through its dependencies: a task graph has no cycles")]
    Cycle {
        /// One of them.
        task: usize,
    },
    /// A mask names pools that there are not.
    #[error("task {task} names pools {mask:#b}, but there are only {pools} pools (bits 0 to {})", pools - 1)]
    Pools {
        /// The task.
        task: usize,
        /// Its mask.
        mask: u64,
        /// The number of pools.
        pools: usize,
    },
    /// The number of pools is none that can be worked with.
    #[error("{pools} pools: between 1 and {} are possible", crate::MAX_POOLS)]
    PoolCount {
        /// The number.
        pools: usize,
    },
    /// The table of costs is not square, or holds something that is no cost.
    #[error(
        "{what}: the table of costs has a row and a column per pool, each entry finite and at least 0"
    )]
    Cost {
        /// What is wrong with it.
        what: String,
    },
    /// An option is out of its range.
    #[error("{name} is {value}, but must be {range}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// There are more tasks or dependencies than a u32 counts.
    #[error("{count} tasks or dependencies: at most {} are possible", u32::MAX - 1)]
    TooLarge {
        /// How many there are.
        count: usize,
    },
}
