//! The agent's daemon.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fed_rpc::server::{self, HandshakeLimits, IncomingFailure};
use fed_rpc::tls::{self, Presented};
use fed_rpc::v1::agent_server::AgentServer;
use futures::StreamExt as _;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::audit::Audit;
use super::config::{AgentConfig, At, ConfigFile};
use super::desk::{self, Asked, Reply};
use super::dialling::Dialling;
use super::keys::{Announced, KeyError, Keys, unusable};
use super::registry::Registry;
use super::roster::{self, Roster};
use super::service::Service;
use super::site::Site;
use crate::control;
use crate::descriptors;
use crate::python::PythonError;
use crate::quiet::Quiet;
use crate::state::StateError;

/// How often it is looked whether a key or an invitation has come to its end.
const ROUND: Duration = Duration::from_secs(60);
/// Requests of the control socket that may wait.
const QUEUE: usize = 16;

/// Why the federations of an operator end who was taken off the roster.
const REMOVED: &str = "the site has removed its operator";

/// Why the agent does not run.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its identity cannot be used.
    #[error("{}", unusable(.0))]
    Identity(#[from] fed_rpc::identity::StoreError),
    /// Its identity cannot be changed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Sandboxes are not possible here.
    #[error(transparent)]
    Unsupported(#[from] fed_sandbox::Unsupported),
    /// It cannot listen.
    #[error("{place}: cannot listen on {listen}: {source}; {}", remedy(.source))]
    Listen {
        /// Where the address stands.
        place: String,
        /// From agent.toml.
        listen: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another agent uses the state folder.
    #[error(
        "another agent runs with the state folder {0}; end it first, or give this one another `state`"
    )]
    Running(PathBuf),
    /// An interpreter cannot be used.
    #[error("{place}: {source}")]
    Python {
        /// Where it is named.
        place: String,
        /// Why not.
        source: PythonError,
    },
    /// A folder of the configuration cannot be shown to workers.
    #[error("{place}: {problem}")]
    Folder {
        /// Where it is named.
        place: String,
        /// Why not, and what to do.
        problem: String,
    },
    /// Workers could read the agent's keys.
    #[error(
        "{place}: the state folder {state} lies below {visible}, which workers may read; move \
         `state` elsewhere"
    )]
    Exposed {
        /// Where the state folder is named.
        place: String,
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

/// What to do about an address that cannot be listened on.
fn remedy(error: &std::io::Error) -> &'static str {
    let kind = error.kind();
    if kind == std::io::ErrorKind::AddrInUse {
        "another program has the port (`ss -ltnp` shows which): end it, or take another port"
    } else if kind == std::io::ErrorKind::PermissionDenied {
        "take a port above 1023"
    } else {
        "take an address of this host, or [::] for all of them"
    }
}

/// Runs the agent until SIGTERM or Ctrl-C. Nodes go on then, and the next agent adopts them. On
/// SIGHUP it reads its configuration again.
///
/// `ready` is called once, when operators can connect, with the address at which the agent listens,
/// if it does.
///
/// # Errors
/// See [`AgentError`].
pub async fn run(
    file: ConfigFile,
    config: AgentConfig,
    ready: impl FnOnce(Option<SocketAddr>),
) -> Result<(), AgentError> {
    fed_sandbox::check()?;
    descriptors::raise();
    let hangups = signal(SignalKind::hangup()).map_err(AgentError::System)?;
    let keys = Keys::of(&config.state);
    keys.change()?;
    let identity = keys.own()?;
    let roster = Roster::open(&config.state)?;
    let audit = Arc::new(Audit::open(&config.state)?);
    let (sites, site) = watch::channel(Arc::new(Site::open(&config).await?));
    let listener = match config.listens_at() {
        Some(listen) => Some(bind(&config, listen).await?),
        None => None,
    };
    let address = listener.as_ref().map(TcpListener::local_addr).transpose();
    let address = address.map_err(AgentError::System)?;
    let socket = control_socket(&config.state).await?;
    let registry = Registry::open(config.name.clone(), &config.state)?;
    let known = roster.operators()?;
    let hosts = |id: &str| {
        let site = site.borrow();
        let limits = roster::present(&known, id).map(|operator| site.limits(operator));
        site.host(&limits.unwrap_or_default())
    };
    registry.adopt(hosts).await?;
    let ending = CancellationToken::new();
    let presented = Arc::new(Presented::new(&identity));
    let dialled = Dialling {
        site: config.name.clone(),
        config: tls::dialling_config(Arc::clone(&presented), Arc::new(roster.clone())),
        roster: roster.clone(),
        audit: Arc::clone(&audit),
    };
    let dialled = dialled.start(&config.dial);
    let incoming = match listener {
        Some(listener) => {
            let admission = Arc::new(roster.clone());
            let tls = tls::changing_server_config(Arc::clone(&presented), admission);
            let refused = refused(roster.clone(), Arc::clone(&audit));
            server::incoming(listener, tls, HandshakeLimits::default(), refused).left_stream()
        }
        None => futures::stream::pending().right_stream(),
    };
    let listens = address.map_or_else(|| "nowhere".to_owned(), |at| at.to_string());
    let dials = config.dial.join(", ");
    info!(site = %config.name, address = listens, dials, fingerprint = %identity.fingerprint(), "agent is ready");
    ready(address);
    if registry.len() > 0 {
        info!(
            federations = registry.len(),
            "took over what an earlier agent left"
        );
    }
    let (announcing, announced) = watch::channel(keys.announced()?);
    let (asking, asked) = mpsc::channel(QUEUE);
    let desk = tokio::spawn(desk::listen(socket, asking));
    let office = Office {
        file,
        config,
        keys,
        roster: roster.clone(),
        registry: registry.clone(),
        audit: Arc::clone(&audit),
        sites,
        announcing,
        presented,
    };
    let office = tokio::spawn(office.work(hangups, asked));
    let service = AgentServer::new(Service {
        roster,
        registry,
        audit,
        site,
        announced,
        ending: ending.clone(),
    });
    let served = server::builder()
        .serve_with_incoming_shutdown(
            service,
            futures::stream::select(incoming, dialled),
            stop(ending),
        )
        .await;
    desk.abort();
    office.abort();
    served.map_err(AgentError::Serve)
}

async fn bind(config: &AgentConfig, listen: String) -> Result<TcpListener, AgentError> {
    let bound = TcpListener::bind(&listen).await;
    bound.map_err(|source| AgentError::Listen {
        place: config.place(&[At::Key("listen")]),
        listen,
        source,
    })
}

/// Binds the control socket, unless another agent answers there.
async fn control_socket(state: &Path) -> Result<tokio::net::UnixListener, AgentError> {
    let path = desk::socket(state);
    if control::Connection::open(&path).await.is_ok() {
        return Err(AgentError::Running(state.to_owned()));
    }
    control::bind(&path).map_err(AgentError::System)
}

fn refused(roster: Roster, audit: Arc<Audit>) -> impl Fn(IncomingFailure) + Send + Sync {
    let displaced = Quiet::default();
    move |failure| match &failure {
        IncomingFailure::Refused {
            remote,
            fingerprint,
        } => {
            let who = roster.past(fingerprint);
            warn!(%failure, who, "connection refused");
            audit.refused(*remote, fingerprint, &who);
        }
        IncomingFailure::Displaced { .. } => {
            if let Some(before) = displaced.note(Instant::now()) {
                warn!(%failure, before, "connection refused");
            }
        }
        IncomingFailure::Accept(_)
        | IncomingFailure::Handshake { .. }
        | IncomingFailure::Timeout { .. } => warn!(%failure, "connection refused"),
    }
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

/// Does what is not a call: reloads, removals, changes of keys, sweeping.
struct Office {
    file: ConfigFile,
    config: AgentConfig,
    keys: Keys,
    roster: Roster,
    registry: Registry,
    audit: Arc<Audit>,
    sites: watch::Sender<Arc<Site>>,
    announcing: watch::Sender<Option<Announced>>,
    presented: Arc<Presented>,
}

impl Office {
    async fn work(mut self, mut hangups: Signal, mut asked: mpsc::Receiver<Asked>) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.end_those_of_strangers().await;
        loop {
            tokio::select! {
                Some(()) = hangups.recv() => self.reload().await,
                Some((request, answer)) = asked.recv() => {
                    let reply = self.serve(request).await;
                    // Whoever asked may have left.
                    let _ = answer.send(reply);
                }
                _ = rounds.tick() => self.round(),
                else => return,
            }
        }
    }

    async fn serve(&self, request: desk::Request) -> Reply {
        match request {
            desk::Request::EndOperator { name, id } => {
                let ended = self.registry.end_all_of(&id, REMOVED).await;
                info!(
                    operator = name,
                    fingerprint = id,
                    federations = ended,
                    "operator removed"
                );
                let message = format!("{ended} federations ended");
                self.audit.site("RemoveOperator", &name, &id, &message);
                Reply::Ended(ended)
            }
            desk::Request::LookAtKeys => {
                self.look_at_keys();
                Reply::Done
            }
        }
    }

    /// Operators may have been removed while no agent ran.
    async fn end_those_of_strangers(&self) {
        for id in self.registry.operators() {
            match self.roster.knows(&id) {
                Ok(true) => {}
                Ok(false) => {
                    self.registry.end_all_of(&id, REMOVED).await;
                    warn!(
                        fingerprint = id,
                        "ended what an operator ran who is not enrolled any more"
                    );
                }
                Err(error) => error!(%error, "the roster cannot be read"),
            }
        }
    }

    fn round(&self) {
        match self.roster.sweep() {
            Ok(0) => {}
            Ok(swept) => info!(swept, "removed invitations and keys that have expired"),
            Err(error) => error!(%error, "expired invitations cannot be removed"),
        }
        self.look_at_keys();
    }

    fn look_at_keys(&self) {
        let looked = self.keys.change().and_then(|changed| {
            if let Some(identity) = changed {
                self.presented.change(&identity);
                info!(fingerprint = %identity.fingerprint(), "the agent uses its new key");
            }
            let announced = self.keys.announced()?;
            self.announcing.send_if_modified(|before| {
                let is_new = *before != announced;
                *before = announced;
                if is_new && let Some(Announced { fingerprint, from }) = announced {
                    info!(%fingerprint, from, "a new key is announced to operators");
                }
                is_new
            });
            Ok(())
        });
        if let Err(error) = looked {
            error!(%error, "the agent's keys cannot be changed");
        }
    }

    /// Reads agent.toml again. What is wrong with it is told, and what was there before stays.
    async fn reload(&mut self) {
        if let Err(error) = self.audit.reopen() {
            error!(%error, "the audit log goes on in the old file");
        }
        let kept = "agent.toml is not right, so what was read before stays";
        let mut config = match self.file.load() {
            Ok(config) => config,
            Err(error) => return error!(%error, "{kept}"),
        };
        for key in config.keep_what_cannot_change(&self.config) {
            warn!(
                key,
                "a change of this key in agent.toml counts after a restart"
            );
        }
        match Site::open(&config).await {
            Ok(site) => {
                self.sites.send_replace(Arc::new(site));
                self.config = config;
                info!(
                    "agent.toml was read again; new federations begin with it, limits count at once"
                );
            }
            Err(error) => error!(%error, "{kept}"),
        }
    }
}
