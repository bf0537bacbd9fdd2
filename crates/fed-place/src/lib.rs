//! Placement: in which pool each task of a graph runs, so that moving bytes between pools costs
//! the least.
//!
//! [`place`] takes a [`Graph`] (tasks, dependencies, output bytes, pins), the [`Links`] between
//! pools and some [`Options`], and gives a [`Placement`]: a pool per task, or none where any pool
//! is as good, with the reason, and the bytes that will cross each pair of pools.
//!
//! This crate opens no socket and no file and reads no clock; equal input gives equal output, and
//! its effort is bounded by a count of steps. It knows nothing of Dask or Python.
//!
//! # The model
//!
//! A task's output is needed wherever a consumer of it runs. A producer in pool `p` with
//! `k > 0` consumers in another pool `q` costs `bytes × cost[p][q] × (1 + surcharge × (k - 1))`:
//! the bytes cross once per *destination pool*, however many consumers are there, and the
//! surcharge stands for the workers of a pool that may each fetch the same chunk. The placement
//! looks for the least sum over all producers.

mod clusters;
mod energy;
mod error;
mod evaluate;
mod exhaustion;
mod expansion;
mod graph;
mod greedy;
mod isolation;
mod links;
mod many;
mod nets;
mod network;
mod options;
mod order;
mod placement;
mod reasons;
mod sides;
mod solve;
mod swap;
mod two;
mod units;

pub use error::PlaceError;
pub use evaluate::{Crossing, evaluate};
pub use graph::{Graph, UNKNOWN};
pub use links::{Links, MAX_POOLS};
pub use options::Options;
pub use placement::{Placement, Reason};

/// Chooses a pool for every task.
///
/// With two pools the cost is the minimum, unless the graph is so large and so entangled that the
/// effort does not suffice; with more it is near it. Where it is known to be the minimum,
/// [`Placement::lower_bound`] says so, and elsewhere how far from it the cost can be at most. It is
/// never more than that of the plain rule, by which every task that is not pinned runs where most
/// bytes of its inputs lie.
///
/// # Errors
/// See [`PlaceError`]: the input contradicts itself, or the graph has a cycle.
pub fn place(graph: &Graph<'_>, links: &Links, options: &Options) -> Result<Placement, PlaceError> {
    graph.check(links)?;
    options.check(links.pools())?;
    let consumers = order::Consumers::new(graph);
    let order = order::topological(graph, &consumers)?;
    let bytes = graph.known_bytes(&order);
    Ok(solve::solve(
        graph, &consumers, &order, &bytes, links, options,
    ))
}
