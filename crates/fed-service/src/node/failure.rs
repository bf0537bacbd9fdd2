//! Why a node could not run.

use std::io;
use std::path::PathBuf;

use fed_core::Destination;
use thiserror::Error;

use crate::state::StateError;

/// Why a node did not start, or ended early.
#[derive(Debug, Error)]
pub enum RunError {
    /// Its folder could not be read or prepared.
    #[error(transparent)]
    State(#[from] StateError),
    /// Nothing says what the node is to be.
    #[error("{0} is missing; `fed node` is started by an agent or by `fed up`, not by hand")]
    NoSpec(PathBuf),
    /// No UDP port for the mesh.
    #[error("cannot open a UDP port for the mesh: {0}")]
    Udp(#[source] io::Error),
    /// No control socket.
    #[error("cannot listen at {path}: {source}")]
    Control {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No sandbox.
    #[error(transparent)]
    Sandbox(#[from] fed_sandbox::SpawnError),
    /// A destination of `reach` could not be given its place inside.
    #[error("cannot listen inside the sandbox for {destination} (`reach` in agent.toml): {source}")]
    Reach {
        /// The destination.
        destination: Destination,
        /// What the system said.
        source: io::Error,
    },
    /// The runtime, a signal handler or a descriptor.
    #[error("cannot start the node: {0}")]
    System(#[source] io::Error),
    /// The first process of the sandbox died.
    #[error("the sandbox ended by itself; the kernel's log says whether it ran out of memory")]
    SandboxDied,
}
