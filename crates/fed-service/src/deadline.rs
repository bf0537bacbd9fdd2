//! Moments: one that may never be, and one that a later process can still tell the age of.

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Waits until an instant; for ever, if there is none.
pub(crate) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Seconds since this host was booted, the time in which it slept included.
pub(crate) fn seconds_since_boot() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has this clock");
    u64::try_from(now.tv_sec()).expect("it has not been booted in the future")
}
