//! The scheduler's port: TLS ends here, and what was said goes on in the clear inside the sandbox.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use fed_rpc::server::{self, HandshakeLimits, IncomingFailure, TlsConn};
use futures::StreamExt as _;
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::dial::Target;
use super::tasks::Tasks;
use crate::quiet::Quiet;

/// Bytes held per direction: chunks of arrays pass here, and each copy costs a wake-up.
const BUFFER: usize = 256 * 1024;

/// Serves clients until it is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    target: Target,
    tasks: Tasks,
) {
    let limits = HandshakeLimits::default();
    let displaced = Quiet::default();
    let mut clients = server::incoming(listener, config, limits, move |failure| {
        let often = matches!(failure, IncomingFailure::Displaced { .. });
        if !often || displaced.note(Instant::now()).is_some() {
            report(&failure);
        }
    });
    while let Some(client) = clients.next().await {
        if let Ok(client) = client {
            tasks.spawn(relay(client, target.clone()));
        }
    }
}

/// Copies both ways until both ends have said all. An end that stops speaking is still spoken to.
async fn relay(mut client: TlsConn, target: Target) {
    let remote = client.peer().remote;
    let mut scheduler = match target.connect().await {
        Ok(scheduler) => scheduler,
        Err(error) => {
            tracing::warn!(
                %remote, scheduler = %target, %error,
                "cannot reach the scheduler; the client is turned away"
            );
            // So that the client reads an end, and no reset; it may be gone already.
            let _ = client.shutdown().await;
            return;
        }
    };
    tracing::debug!(%remote, "a client of the scheduler connected");
    let copied =
        tokio::io::copy_bidirectional_with_sizes(&mut client, &mut scheduler, BUFFER, BUFFER).await;
    match copied {
        Ok((received_bytes, sent_bytes)) => {
            tracing::debug!(%remote, received_bytes, sent_bytes, "a client of the scheduler left");
        }
        // Python closes sockets without the last words of TLS: nothing to look at.
        Err(error) => tracing::debug!(%remote, %error, "a client of the scheduler was cut off"),
    }
}

fn report(failure: &IncomingFailure) {
    let error: &(dyn Error + 'static) = failure;
    match remote(failure) {
        Some(remote) => tracing::warn!(%remote, error, "a client of the scheduler was refused"),
        None => tracing::warn!(error, "cannot accept clients of the scheduler"),
    }
}

fn remote(failure: &IncomingFailure) -> Option<SocketAddr> {
    match failure {
        IncomingFailure::Accept(_) => None,
        IncomingFailure::Refused { remote, .. }
        | IncomingFailure::Handshake { remote, .. }
        | IncomingFailure::Displaced { remote }
        | IncomingFailure::Timeout { remote, .. } => Some(*remote),
    }
}
