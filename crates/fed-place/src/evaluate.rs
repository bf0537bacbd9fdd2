//! What a given placement costs.

use crate::error::PlaceError;
use crate::graph::Graph;
use crate::greedy::holders;
use crate::links::Links;
use crate::order::{Consumers, topological};
use crate::placement::pools_of;
use crate::units::approximate;

/// The bytes that cross, and what that costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Crossing {
    /// Bytes over each ordered pair of pools, entry `from * pools + to`; a producer's count once
    /// per destination.
    pub bytes: Vec<u64>,
    /// Cost of the crate's model, the surcharge included.
    pub cost: f64,
}

/// Says what crosses when task `t` runs in pool `pools[t]`.
///
/// # Errors
/// As [`crate::place`].
///
/// # Panics
/// If `pools` is shorter than the graph, or names a pool that there is not.
pub fn evaluate(
    graph: &Graph<'_>,
    links: &Links,
    surcharge: f64,
    pools: &[u8],
) -> Result<Crossing, PlaceError> {
    graph.check(links)?;
    let consumers = Consumers::new(graph);
    let order = topological(graph, &consumers)?;
    let bytes = graph.known_bytes(&order);
    Ok(crossing(graph, &consumers, &bytes, links, surcharge, pools))
}

/// What crosses, every output's bytes being known.
pub(crate) fn crossing(
    graph: &Graph<'_>,
    consumers: &Consumers,
    bytes: &[u64],
    links: &Links,
    surcharge: f64,
    pools: &[u8],
) -> Crossing {
    let count = links.pools();
    let mut crossing = Crossing {
        bytes: vec![0; count * count],
        cost: 0.0,
    };
    let mut readers = vec![0_u32; count];
    for (task, &bytes) in bytes.iter().enumerate() {
        let holders = holders(graph, pools, task);
        let mut needed = 0_u64;
        for &consumer in consumers.of(task) {
            let pool = usize::from(pools[consumer as usize]);
            needed |= 1 << pool;
            readers[pool] += 1;
        }
        for to in pools_of(needed) {
            let extra = f64::from(readers[to] - 1);
            readers[to] = 0;
            if holders >> to & 1 == 0 {
                let from = links.nearest(holders, to);
                let total = &mut crossing.bytes[from * count + to];
                *total = total.saturating_add(bytes);
                let size = approximate(bytes);
                crossing.cost += size * links.cost(from, to) * (1.0 + surcharge * extra);
            }
        }
    }
    crossing
}
