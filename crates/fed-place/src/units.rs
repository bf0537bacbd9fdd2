//! Numbers that costs are made of.

/// The number as a float, which costs are.
#[expect(
    clippy::cast_precision_loss,
    reason = "bytes beyond 2^53 need not be exact"
)]
pub(crate) fn approximate(bytes: u64) -> f64 {
    bytes as f64
}
