//! The consumers of every task, and a topological order.

use crate::error::PlaceError;
use crate::graph::Graph;

/// Every task after its dependencies: by depth, then by index. Linear in tasks and dependencies.
pub(crate) fn topological(
    graph: &Graph<'_>,
    consumers: &Consumers,
) -> Result<Vec<u32>, PlaceError> {
    let tasks = graph.len();
    let mut waiting: Vec<u32> = (0..tasks)
        .map(|task| index(graph.dependencies(task).len()))
        .collect();
    let mut order: Vec<u32> = Vec::with_capacity(tasks);
    order.extend((0..index(tasks)).filter(|task| waiting[*task as usize] == 0));
    let mut next = 0;
    while let Some(&task) = order.get(next) {
        next += 1;
        for &consumer in consumers.of(task as usize) {
            waiting[consumer as usize] -= 1;
            if waiting[consumer as usize] == 0 {
                order.push(consumer);
            }
        }
    }
    match waiting.iter().position(|count| *count > 0) {
        Some(task) => Err(PlaceError::Cycle { task }),
        None => Ok(order),
    }
}

/// The consumers of every task, in order of their index.
pub(crate) struct Consumers {
    offsets: Vec<u32>,
    tasks: Vec<u32>,
}

impl Consumers {
    pub(crate) fn new(graph: &Graph<'_>) -> Self {
        let tasks = graph.len();
        let mut offsets = vec![0_u32; tasks + 1];
        for task in 0..tasks {
            for &from in graph.dependencies(task) {
                offsets[from as usize + 1] += 1;
            }
        }
        for task in 0..tasks {
            offsets[task + 1] += offsets[task];
        }
        let mut next = offsets.clone();
        let mut consumers = vec![0_u32; offsets[tasks] as usize];
        for task in 0..tasks {
            for &from in graph.dependencies(task) {
                let at = &mut next[from as usize];
                consumers[*at as usize] = index(task);
                *at += 1;
            }
        }
        Self {
            offsets,
            tasks: consumers,
        }
    }

    /// The consumers of a task; one that names it twice stands here twice.
    pub(crate) fn of(&self, task: usize) -> &[u32] {
        &self.tasks[self.offsets[task] as usize..self.offsets[task + 1] as usize]
    }

    /// Their number.
    pub(crate) fn count(&self, task: usize) -> u32 {
        self.offsets[task + 1] - self.offsets[task]
    }
}

/// A task's index as it stands in the arrays.
pub(crate) fn index(task: usize) -> u32 {
    u32::try_from(task).expect("Graph::check has counted the tasks")
}
