//! The result: where each task runs, and why.

use crate::evaluate::Crossing;

/// Why a task runs where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// It may run in any pool: none is cheaper than another by more than the slack.
    Free = 0,
    /// Only one pool is allowed.
    Pinned = 1,
    /// Its output is there already.
    Present = 2,
    /// Its inputs are the cheapest to bring here.
    WithInputs = 3,
    /// It is here for the sake of the tasks that need its output.
    WithConsumers = 4,
}

impl Reason {
    /// Every reason, by its number.
    pub const ALL: [Self; 5] = [
        Self::Free,
        Self::Pinned,
        Self::Present,
        Self::WithInputs,
        Self::WithConsumers,
    ];
}

/// A pool per task, and what that costs.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// Pool of each task; `None` where any will do. For an output that is there already, one of
    /// the pools that hold it.
    pub pools: Vec<Option<u8>>,
    /// Why.
    pub reasons: Vec<Reason>,
    /// What the task's best other pool would cost more, all other tasks staying where they are, in
    /// bytes × cost; 0 where there is no other.
    pub savings: Vec<f64>,
    /// What crosses, tasks that are free taken to run where they cost least.
    pub crossing: Crossing,
    /// The cost when every task that is not pinned runs where most bytes of its inputs lie; never
    /// less than that of `crossing`.
    pub plain_cost: f64,
    /// No placement costs less than this. Equal to the cost where that is known to be the minimum.
    pub lower_bound: f64,
}

/// The pools of a set given as bits, in order.
pub(crate) fn pools_of(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (mask != 0).then(|| {
            let pool = mask.trailing_zeros() as usize;
            mask &= mask - 1;
            pool
        })
    })
}
