//! What can be tuned.

use crate::error::PlaceError;

/// Parameters of the cost model.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Extra cost, as a fraction of an output's, of every consumer in a pool after the first:
    /// several workers of a pool may each fetch the same chunk. Between 0 and 1. The default,
    /// 0.05, was found by measurement: it decides between equals for the fewer crossing consumers
    /// and hardly bears on anything else.
    pub surcharge: f64,
    /// A task stays free when running it in the worst pool costs at most this much more than in
    /// the best, in the unit of the links' costs times bytes. At least 0, the default.
    pub slack: f64,
    /// Threads of each pool; between pools that cost the same, the larger share of threads wins.
    /// Empty means equal.
    pub capacity: Vec<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            surcharge: 0.05,
            slack: 0.0,
            capacity: Vec::new(),
        }
    }
}

impl Options {
    pub(crate) fn check(&self, pools: usize) -> Result<(), PlaceError> {
        if !(0.0..=1.0).contains(&self.surcharge) {
            return Err(PlaceError::Option {
                name: "surcharge",
                value: self.surcharge,
                range: "between 0 and 1",
            });
        }
        if self.slack.is_nan() || self.slack < 0.0 {
            return Err(PlaceError::Option {
                name: "slack",
                value: self.slack,
                range: "at least 0",
            });
        }
        if !self.capacity.is_empty() && self.capacity.len() != pools {
            return Err(PlaceError::Length {
                array: "capacity",
                found: self.capacity.len(),
                expected: pools,
                tasks: 0,
            });
        }
        Ok(())
    }
}
