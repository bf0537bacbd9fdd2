//! Both ends of the control plane over real TLS on loopback.

#![expect(clippy::unwrap_used, reason = "tests")]

mod failures;
mod gateway;
mod handshakes;
mod reverse;
mod site;
mod trust;

use std::time::Duration;

/// Bound on whatever should happen at once, so that a hanging test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what must happen, for as long as patience lasts.
async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("still waiting for {what}"),
    }
}
