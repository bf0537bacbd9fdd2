//! How the rest of a process talks to a driver.

use std::io;
use std::sync::Arc;

use fed_mesh::{Drops, Event, PeerConfig, PeerStatus, SetPeersError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{Losses, Offloads};

/// Commands that wait at most; a caller beyond it waits itself.
pub(crate) const COMMANDS: usize = 16;

/// Events kept for a slow listener; beyond it the oldest is lost, and the listener is told.
pub(crate) const EVENTS: usize = 256;

/// What a handle asks of its driver.
pub(crate) enum Command {
    SetPeers(Vec<PeerConfig>, oneshot::Sender<Result<(), SetPeersError>>),
    Status(oneshot::Sender<Status>),
    Stop,
}

/// What became of a driver.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Running,
    Stopped,
    Failed(Arc<io::Error>),
}

/// Counters of a driver and its router, and what the kernel does for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The peers, in the order in which they were added.
    pub peers: Vec<PeerStatus>,
    /// What the router dropped without concerning any one peer.
    pub drops: Drops,
    /// What was lost between the router and the kernel.
    pub losses: Losses,
    /// What is left to the kernel. What the TUN has refused is not asked for again.
    pub offloads: Offloads,
}

/// The driver has stopped, so that it cannot answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mesh of this node has stopped; its log says why")]
pub struct Closed;

/// Why a set of peers was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetPeersFailed {
    /// The driver has stopped.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The router refused the set, and keeps the one it had.
    #[error("the peers of this node stay as they are: {0}")]
    Refused(SetPeersError),
}

/// The TUN device failed under the driver.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the mesh of this node failed: its TUN device cannot be read any longer")]
pub struct TunFailed(#[source] Arc<io::Error>);

/// A means to command one driver. The driver ends when its last handle is dropped.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: broadcast::WeakSender<Event>,
    pub(crate) state: watch::Receiver<State>,
}

impl Handle {
    /// Replaces the set of peers; see [`fed_mesh::Router::set_peers`].
    ///
    /// # Errors
    /// The router refused the set, or the driver has stopped.
    pub async fn set_peers(&self, peers: Vec<PeerConfig>) -> Result<(), SetPeersFailed> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::SetPeers(peers, reply)).await?;
        answer
            .await
            .map_err(|_| Closed)?
            .map_err(SetPeersFailed::Refused)
    }

    /// The peers with their counters.
    ///
    /// # Errors
    /// The driver has stopped.
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, Closed> {
        Ok(self.status().await?.peers)
    }

    /// All counters.
    ///
    /// # Errors
    /// The driver has stopped.
    pub async fn status(&self) -> Result<Status, Closed> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::Status(reply)).await?;
        answer.await.map_err(|_| Closed)
    }

    /// The events from now on. The receiver ends when the driver does, and does not keep it alive.
    ///
    /// # Errors
    /// The driver has stopped.
    pub fn events(&self) -> Result<broadcast::Receiver<Event>, Closed> {
        Ok(self.events.upgrade().ok_or(Closed)?.subscribe())
    }

    /// Waits for the end of the driver.
    ///
    /// # Errors
    /// The driver was not asked to stop: its TUN device failed.
    pub async fn finished(&self) -> Result<(), TunFailed> {
        let mut state = self.state.clone();
        let ended = state
            .wait_for(|state| !matches!(state, State::Running))
            .await;
        match ended.as_deref() {
            Ok(State::Failed(error)) => Err(TunFailed(Arc::clone(error))),
            // Without a last word, the runtime was shut down under the driver.
            Ok(State::Running | State::Stopped) | Err(_) => Ok(()),
        }
    }

    /// Ends the driver, for all handles, and returns when its descriptors are closed.
    pub async fn stop(self) {
        if self.command(Command::Stop).await.is_ok() {
            self.commands.closed().await;
        }
    }

    async fn command(&self, command: Command) -> Result<(), Closed> {
        self.commands.send(command).await.map_err(|_| Closed)
    }
}
