//! What happens in a mesh, written to the node's log under the names of members.

use fed_mesh::{Event, MTU_MIN, Path, PublicKey};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tracing::{info, warn};

/// The events of a router, as they wait to be written.
#[derive(Debug)]
pub(super) struct News(Receiver<Event>);

impl News {
    pub(super) fn new(events: Receiver<Event>) -> Self {
        Self(events)
    }

    /// Writes what has happened since the last call.
    pub(super) fn log(&mut self, name: impl Fn(PublicKey) -> String) {
        loop {
            match self.0.try_recv() {
                Ok(event) => log(event, &name),
                Err(TryRecvError::Lagged(missed)) => warn!(missed, "too much has happened"),
                // The end of a router is told by itself.
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}

fn log(event: Event, name: &impl Fn(PublicKey) -> String) {
    let path = |path: Path| match path {
        Path::Udp(at) if at.ip().is_loopback() => "over TLS".to_owned(),
        Path::Udp(at) => format!("direct, {at}"),
        Path::Relay(relay) => format!("relayed via {}", name(relay)),
    };
    match event {
        Event::HandshakeCompleted { peer, path: by } => {
            info!("handshake with {} completed ({})", name(peer), path(by));
        }
        Event::PathChanged { peer, from, to } => {
            let from = from.map_or_else(String::new, |from| format!(", before: {}", path(from)));
            info!("path to {} is now {}{from}", name(peer), path(to));
        }
        Event::PeerSilent { peer, silence } => {
            warn!(
                "{} has not been heard for {} s",
                name(peer),
                silence.as_secs()
            );
        }
        Event::PathMtuChanged { peer, mtu } => {
            info!("the path to {} carries packets of {mtu} bytes", name(peer));
        }
        Event::PathNarrow { peer, path: by } => {
            warn!(
                "the path to {} ({}) carries small packets alone, and none of {MTU_MIN} bytes: \
                 another is taken if there is one; else raise the MTU of the network in between",
                name(peer),
                path(by)
            );
        }
        Event::PeerReturned { peer, silence } => {
            info!(
                "{} is heard again after {} s",
                name(peer),
                silence.as_secs()
            );
        }
    }
}
