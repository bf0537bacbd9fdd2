//! Waiting for a moment that may never be.

use tokio::time::Instant;

/// Waits until an instant; for ever, if there is none.
pub(crate) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
