//! Costs as whole numbers, so that sums are exact and equals are equal.

use crate::links::Links;

/// Converts costs to whole numbers by a power of two, so that the sum of all fits an `i64` and
/// whole bytes at a cost of 1 stay exact.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Units {
    factor: f64,
    surcharge: f64,
}

/// What an output costs in one foreign pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charge {
    /// Once, if any consumer is there, without `each` of the first.
    pub(crate) once: i64,
    /// For each consumer there.
    pub(crate) each: i64,
}

impl Charge {
    pub(crate) const NONE: Self = Self { once: 0, each: 0 };

    /// The charge for some consumers, at least one.
    pub(crate) fn of(self, consumers: u32) -> i64 {
        self.once + self.each * i64::from(consumers)
    }
}

impl Units {
    /// Chooses the unit for outputs that weigh `total` altogether: the sum over all of their bytes,
    /// times the number of pools each may go to, its surcharges included.
    pub(crate) fn new(total: f64, links: &Links, surcharge: f64) -> Self {
        let pools = 0..links.pools();
        let pairs = pools
            .clone()
            .flat_map(|from| pools.clone().map(move |to| (from, to)));
        let dearest = pairs
            .map(|(from, to)| links.cost(from, to))
            .fold(0.0, f64::max);
        let largest = total * dearest;
        let exponent = if largest > 0.0 {
            59.0 - largest.log2().ceil()
        } else {
            0.0
        };
        Self {
            factor: exponent.clamp(-1000.0, 1000.0).exp2(),
            surcharge,
        }
    }

    /// The charge for an output of this weight (bytes times cost).
    pub(crate) fn charge(self, weight: f64) -> Charge {
        let full = self.whole(weight);
        let each = self.whole(weight * self.surcharge).min(full);
        Charge {
            once: full - each,
            each,
        }
    }

    /// The number in the unit of the links' costs times bytes.
    pub(crate) fn real(self, whole: i64) -> f64 {
        approximate(whole.unsigned_abs()) * f64::from(i8::try_from(whole.signum()).unwrap_or(0))
            / self.factor
    }

    fn whole(self, cost: f64) -> i64 {
        #[expect(clippy::cast_possible_truncation, reason = "`new` has made it fit")]
        let whole = (cost * self.factor).round() as i64;
        whole
    }
}

/// The number as a float, which costs are.
#[expect(
    clippy::cast_precision_loss,
    reason = "bytes beyond 2^53 need not be exact"
)]
pub(crate) fn approximate(bytes: u64) -> f64 {
    bytes as f64
}
