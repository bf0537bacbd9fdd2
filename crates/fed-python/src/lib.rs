//! `fed._fed`, the compiled part of the Python package `fed`.
//!
//! It translates between Python's objects and `fed-place`, and holds no logic of its own. What it
//! offers is documented, and typed, in `python/fed/_fed.pyi`.

mod arrays;
mod placement;

/// The module `fed._fed`.
#[pyo3::pymodule]
mod _fed {
    #[pymodule_export]
    use crate::placement::{Placement, place};

    /// The release of fed that this was built from.
    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "the name that Python gives it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    /// An output of unknown size.
    #[pymodule_export]
    const UNKNOWN: u64 = fed_place::UNKNOWN;

    /// The most pools there may be.
    #[pymodule_export]
    const MAX_POOLS: usize = fed_place::MAX_POOLS;

    /// Reason: any pool is as good.
    #[pymodule_export]
    const FREE: u8 = fed_place::Reason::Free as u8;

    /// Reason: one pool is allowed.
    #[pymodule_export]
    const PINNED: u8 = fed_place::Reason::Pinned as u8;

    /// Reason: the output is there already.
    #[pymodule_export]
    const PRESENT: u8 = fed_place::Reason::Present as u8;

    /// Reason: the inputs are there.
    #[pymodule_export]
    const WITH_INPUTS: u8 = fed_place::Reason::WithInputs as u8;

    /// Reason: the tasks that need the output are there.
    #[pymodule_export]
    const WITH_CONSUMERS: u8 = fed_place::Reason::WithConsumers as u8;
}
