//! What it costs to move a byte from one pool to another.

use crate::error::PlaceError;

/// The most pools there may be: a set of pools is 64 bits.
pub const MAX_POOLS: usize = 64;

/// Cost of a byte for every ordered pair of pools, in any unit (seconds, money, 1).
#[derive(Clone, Debug, PartialEq)]
pub struct Links {
    pools: usize,
    cost: Vec<f64>,
}

impl Links {
    /// Makes the table from its rows: entry `from * pools + to`. The diagonal is taken as 0.
    ///
    /// # Errors
    /// [`PlaceError::PoolCount`] and [`PlaceError::Cost`].
    pub fn new(pools: usize, cost: &[f64]) -> Result<Self, PlaceError> {
        if !(1..=MAX_POOLS).contains(&pools) {
            return Err(PlaceError::PoolCount { pools });
        }
        if cost.len() != pools * pools {
            let what = format!("{} entries for {pools} pools", cost.len());
            return Err(PlaceError::Cost { what });
        }
        if let Some(at) = cost
            .iter()
            .position(|cost| !cost.is_finite() || *cost < 0.0)
        {
            let what = format!("cost[{}][{}] is {}", at / pools, at % pools, cost[at]);
            return Err(PlaceError::Cost { what });
        }
        let mut cost = cost.to_vec();
        for pool in 0..pools {
            cost[pool * pools + pool] = 0.0;
        }
        Ok(Self { pools, cost })
    }

    /// Every byte between two pools costs 1.
    ///
    /// # Errors
    /// [`PlaceError::PoolCount`].
    pub fn uniform(pools: usize) -> Result<Self, PlaceError> {
        Self::new(pools, &vec![1.0; pools.saturating_mul(pools)])
    }

    /// The number of pools.
    pub fn pools(&self) -> usize {
        self.pools
    }

    /// The cost of a byte that goes from one pool to another; 0 within a pool.
    pub fn cost(&self, from: usize, to: usize) -> f64 {
        self.cost[from * self.pools + to]
    }

    /// Whether a byte costs the same between any two pools.
    pub(crate) fn is_uniform(&self) -> bool {
        let pools = 0..self.pools;
        let pairs = pools
            .clone()
            .flat_map(|from| pools.clone().map(move |to| (from, to)));
        let mut costs = pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| self.cost(from, to));
        let first = costs.next();
        costs.all(|cost| Some(cost) == first)
    }

    /// The cheapest of several pools (as bits, at least one) to fetch a byte from; of equals the
    /// first.
    pub(crate) fn nearest(&self, holders: u64, to: usize) -> usize {
        let mut nearest = holders.trailing_zeros() as usize;
        for pool in crate::placement::pools_of(holders) {
            if self.cost(pool, to) < self.cost(nearest, to) {
                nearest = pool;
            }
        }
        nearest
    }
}
