//! The task graph as flat arrays.

use crate::error::PlaceError;
use crate::links::Links;

/// An output of unknown size. It is taken to be as large as the largest dependency's.
pub const UNKNOWN: u64 = u64::MAX;

/// A task graph of `n` tasks, in compressed rows: task `t` depends on
/// `indices[indptr[t]..indptr[t + 1]]`, in any order.
#[derive(Clone, Copy, Debug)]
pub struct Graph<'a> {
    /// Size of each task's output in bytes; [`UNKNOWN`] where nobody knows. Length `n`.
    pub output_bytes: &'a [u64],
    /// Offsets into `indices`. Length `n + 1`.
    pub indptr: &'a [u32],
    /// Dependencies, as task indices; one that a task names twice counts twice.
    pub indices: &'a [u32],
    /// Pools in which each task may run, as bits; 0 means any, one bit is a pin. Length `n`.
    pub allowed: &'a [u64],
    /// Pools whose workers hold each task's output already, as bits; 0 means that it must still
    /// run. Length `n`, or 0 when nothing has run.
    pub present: &'a [u64],
}

impl<'a> Graph<'a> {
    /// The number of tasks.
    pub fn len(&self) -> usize {
        self.output_bytes.len()
    }

    /// Whether there is no task.
    pub fn is_empty(&self) -> bool {
        self.output_bytes.is_empty()
    }

    /// What a task must read: its dependencies, unless its output is there already.
    pub fn dependencies(&self, task: usize) -> &'a [u32] {
        if self.present(task) != 0 {
            return &[];
        }
        &self.indices[self.indptr[task] as usize..self.indptr[task + 1] as usize]
    }

    /// The pools that hold a task's output already, as bits.
    pub(crate) fn present(&self, task: usize) -> u64 {
        self.present.get(task).copied().unwrap_or(0)
    }

    /// The pools in which a task may run (or its output is), as bits; never 0.
    pub(crate) fn possible(&self, task: usize, pools: usize) -> u64 {
        match (self.present(task), self.allowed[task]) {
            (0, 0) => all(pools),
            (0, allowed) => allowed,
            (present, _) => present,
        }
    }

    pub(crate) fn check(&self, links: &Links) -> Result<(), PlaceError> {
        let tasks = self.len();
        for count in [tasks, self.indices.len()] {
            if count >= u32::MAX as usize {
                return Err(PlaceError::TooLarge { count });
            }
        }
        self.check_lengths()?;
        self.check_offsets()?;
        let outside = !all(links.pools());
        for masks in [self.allowed, self.present] {
            if let Some(task) = masks.iter().position(|mask| mask & outside != 0) {
                return Err(PlaceError::Pools {
                    task,
                    mask: masks[task],
                    pools: links.pools(),
                });
            }
        }
        for task in 0..tasks {
            let missing = |dependency: &&u32| **dependency as usize >= tasks;
            if let Some(dependency) = self.dependencies(task).iter().find(missing) {
                return Err(PlaceError::Dependency {
                    task,
                    dependency: *dependency,
                    tasks,
                });
            }
        }
        Ok(())
    }

    fn check_lengths(&self) -> Result<(), PlaceError> {
        let tasks = self.len();
        let lengths = [
            ("indptr", self.indptr.len(), tasks + 1),
            ("allowed", self.allowed.len(), tasks),
            (
                "present",
                self.present.len(),
                if self.present.is_empty() { 0 } else { tasks },
            ),
        ];
        let wrong = lengths
            .iter()
            .find(|(_, found, expected)| found != expected);
        wrong.map_or(Ok(()), |&(array, found, expected)| {
            Err(PlaceError::Length {
                array,
                found,
                expected,
                tasks,
            })
        })
    }

    fn check_offsets(&self) -> Result<(), PlaceError> {
        let last = self.indptr.len() - 1;
        let bad = |at: &usize| {
            let value = self.indptr[*at] as usize;
            (*at == 0 && value != 0)
                || (*at > 0 && value < self.indptr[at - 1] as usize)
                || (*at == last && value != self.indices.len())
        };
        (0..=last).find(bad).map_or(Ok(()), |at| {
            Err(PlaceError::Offset {
                at,
                value: self.indptr[at],
                dependencies: self.indices.len(),
            })
        })
    }

    /// The bytes of every output, in topological `order`: an unknown one is as large as the
    /// largest dependency's, and 0 without any.
    pub(crate) fn known_bytes(&self, order: &[u32]) -> Vec<u64> {
        let mut bytes = self.output_bytes.to_vec();
        for &task in order {
            let task = task as usize;
            if bytes[task] == UNKNOWN {
                let sizes = self.dependencies(task).iter();
                bytes[task] = sizes.map(|&from| bytes[from as usize]).max().unwrap_or(0);
            }
        }
        bytes
    }
}

/// All of the first `pools` pools, as bits.
pub(crate) fn all(pools: usize) -> u64 {
    u64::MAX >> (64 - pools)
}
