//! The agent's daemon.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fed_rpc::server::{self, HandshakeLimits, IncomingFailure};
use fed_rpc::v1::agent_server::AgentServer;
use fed_rpc::{Identity, tls};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::config::AgentConfig;
use super::federation::Host;
use super::registry::Registry;
use super::roster::Roster;
use super::service::Service;
use super::setup::identity_file;
use crate::python::{Inspection, PythonError, exposed, readable};
use crate::state::StateError;

/// Why the agent does not run.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its identity cannot be used.
    #[error("{0}; run `fed agent init` first")]
    Identity(#[from] fed_rpc::identity::StoreError),
    /// It cannot listen.
    #[error("cannot listen on {listen}: {source}; is another agent running?")]
    Listen {
        /// From agent.toml.
        listen: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its interpreter cannot be used.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// The configuration names a folder that is not there.
    #[error("{0} does not exist, but agent.toml names it as data or read_only")]
    Missing(PathBuf),
    /// Workers could read the agent's keys.
    #[error(
        "the state folder {state} lies below {visible}, which workers may read; move `state` elsewhere"
    )]
    Exposed {
        /// The agent's state folder.
        state: PathBuf,
        /// What workers see.
        visible: PathBuf,
    },
    /// The runtime or the program's own path.
    #[error("cannot run: {0}")]
    System(#[source] std::io::Error),
    /// The server broke.
    #[error("the server failed: {0}")]
    Serve(#[source] tonic::transport::Error),
}

/// Runs the agent until SIGTERM or Ctrl-C. Nodes go on then, and the next agent adopts them.
///
/// `ready` is called once, with the address, when operators can connect.
///
/// # Errors
/// See [`AgentError`].
pub async fn run(
    config: AgentConfig,
    ready: impl FnOnce(std::net::SocketAddr),
) -> Result<(), AgentError> {
    let identity = Identity::load(&identity_file(&config.state))?;
    let roster = Roster::open(&config.state)?;
    let inspection = config.interpreter().inspect().await?;
    let host = Arc::new(host(&config, &inspection)?);
    let listen = |source| AgentError::Listen {
        listen: config.listen.clone(),
        source,
    };
    let listener = TcpListener::bind(&config.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(AgentError::System)?;
    let registry = Registry::open(host, &config.state)?;
    let ending = CancellationToken::new();
    let tls = tls::server_config(&identity, Arc::new(roster.clone()));
    let incoming = server::incoming(listener, tls, HandshakeLimits::default(), refused);
    info!(site = %config.name, %address, fingerprint = %identity.fingerprint(), "agent is ready");
    ready(address);
    let adopted = registry.all().len();
    if adopted > 0 {
        info!(
            federations = adopted,
            "took over what an earlier agent left"
        );
    }
    let service = AgentServer::new(Service::new(roster, registry, ending.clone()));
    server::builder()
        .serve_with_incoming_shutdown(service, incoming, stop(ending))
        .await
        .map_err(AgentError::Serve)
}

fn refused(failure: IncomingFailure) {
    warn!(%failure, "connection refused");
}

async fn stop(ending: CancellationToken) {
    match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(error), _) | (_, Err(error)) => {
            warn!(%error, "cannot wait for signals, so the agent ends")
        }
    }
    info!("agent ends; nodes go on until their leases lapse");
    ending.cancel();
}

fn host(config: &AgentConfig, inspection: &Inspection) -> Result<Host, AgentError> {
    let named: Vec<PathBuf> = config
        .data_folders()
        .chain(config.read_only.iter().cloned())
        .collect();
    if let Some(missing) = named.iter().find(|path| !path.exists()) {
        return Err(AgentError::Missing(missing.clone()));
    }
    let read_only = readable(inspection, named);
    if let Some(visible) = exposed(&config.state, &read_only) {
        return Err(AgentError::Exposed {
            state: config.state.clone(),
            visible: visible.clone(),
        });
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Host {
        site: config.name.clone(),
        program: std::env::current_exe().map_err(AgentError::System)?,
        interpreter: config.interpreter().resolved(inspection),
        pools: config.offers(u32::try_from(cores).unwrap_or(u32::MAX), memory_bytes()),
        read_only,
    })
}

/// Memory of this host in bytes, from /proc/meminfo; 1 GiB if it does not say.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc/meminfo")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        });
    kib.map_or(1 << 30, |kib| kib * 1024)
}
