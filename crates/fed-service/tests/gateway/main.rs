//! The gateway from outside: TLS clients, raw HTTP, and the real Dask behind it.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod dashboard;
mod dask;
mod log;
mod python;
mod scheduler;
mod setup;

use std::time::Duration;

/// Waits for what must come about; a hang becomes a failure.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(120), future)
        .await
        .expect("this ends within two minutes, or hangs")
}
