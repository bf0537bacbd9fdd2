//! The listeners on the operator's host through which clients reach what runs inside the mesh.
//!
//! [`Gateway::open`] listens twice on one address of the host: for clients of the scheduler, whose
//! TLS ends here, and for browsers, whose requests go to the dashboard. Both destinations lie in
//! the sandbox's network, which only a [`Dial`] can reach.

mod access;
mod dashboard;
mod dial;
mod headers;
mod ports;
mod proxy;
mod scheduler;
mod tasks;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fed_rpc::{Fingerprint, Identity};
use thiserror::Error;

pub use dial::Dial;

use access::Access;
use dial::Target;
use tasks::Tasks;

/// Shortest token, in characters: 128 bits in base64.
const SHORTEST_TOKEN: usize = 22;

/// What a gateway serves, and where.
#[derive(Clone)]
pub struct GatewaySpec {
    /// The scheduler's plain listener, as seen from inside the sandbox.
    pub scheduler: SocketAddr,
    /// The dashboard's HTTP listener, as seen from inside the sandbox.
    pub dashboard: SocketAddr,
    /// Address of this host to listen on, usually 127.0.0.1.
    pub bind: IpAddr,
    /// Where the search for the scheduler's port begins; the dashboard's begins one above.
    /// 0 takes any two free ports.
    pub first_port: u16,
    /// Name of the dashboard's cookie. Cookies do not know ports, so two federations on one host
    /// need two names. Letters, digits, `-` and `_`.
    pub cookie_name: String,
    /// What opens the dashboard: 22 or more letters, digits, `-` and `_`. Secret.
    pub token: String,
}

/// Why a gateway cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The token could be guessed, or cannot stand in a link.
    #[error(
        "the dashboard's token must be {SHORTEST_TOKEN} or more letters, digits, - and _; \
         make a new one"
    )]
    Token,
    /// The cookie's name cannot stand in a header.
    #[error("the dashboard's cookie cannot be named {0:?}; take letters, digits, - and _ only")]
    CookieName(String),
    /// Every port of the range is taken.
    #[error("no free port on {bind} from {first} to {last}; choose another first port")]
    NoFreePort {
        /// The address.
        bind: IpAddr,
        /// First port that was tried.
        first: u16,
        /// Last port that was tried.
        last: u16,
    },
    /// The system did not let us listen.
    #[error("cannot listen on {address} for clients: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The open listeners of one federation, and the connections that came through them.
///
/// Dropping it ends them all too, a moment later.
pub struct Gateway {
    scheduler: SocketAddr,
    dashboard: SocketAddr,
    token: String,
    tasks: Tasks,
}

impl Gateway {
    /// Listens for clients of the scheduler and of the dashboard.
    ///
    /// The one client that `client` names is let through to the scheduler; it trusts `server`'s
    /// certificate. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the token or the cookie's name does not serve, or no port is free.
    pub async fn open(
        spec: GatewaySpec,
        dial: Arc<dyn Dial>,
        server: &Identity,
        client: Fingerprint,
    ) -> Result<Self, OpenError> {
        check(&spec)?;
        let (scheduler_port, scheduler) = ports::listen(spec.bind, spec.first_port).await?;
        let above = match spec.first_port {
            0 => 0,
            first => first.saturating_add(1),
        };
        let (dashboard_port, dashboard) = ports::listen(spec.bind, above).await?;

        let tasks = Tasks::default();
        tasks.spawn(scheduler::serve(
            scheduler_port,
            fed_rpc::tls::gateway_config(server, client),
            Target::new(Arc::clone(&dial), spec.scheduler),
            tasks.clone(),
        ));
        tasks.spawn(dashboard::serve(
            dashboard_port,
            Access::new(dashboard, spec.cookie_name, spec.token.clone()),
            Target::new(dial, spec.dashboard),
            tasks.clone(),
        ));
        tracing::info!(%scheduler, %dashboard, "the gateway is open");
        Ok(Self {
            scheduler,
            dashboard,
            token: spec.token,
            tasks,
        })
    }

    /// Returns where clients reach the scheduler, over TLS.
    pub fn scheduler_address(&self) -> SocketAddr {
        self.scheduler
    }

    /// Returns where browsers reach the dashboard, over HTTP.
    pub fn dashboard_address(&self) -> SocketAddr {
        self.dashboard
    }

    /// Returns the link that opens the dashboard. Secret: it holds the token.
    pub fn dashboard_url(&self) -> String {
        format!("http://{}/status?token={}", self.dashboard, self.token)
    }

    /// Ends the listeners and all connections, and returns when the last one is gone.
    pub async fn close(self) {
        self.tasks.end().await;
        tracing::info!(scheduler = %self.scheduler, dashboard = %self.dashboard, "the gateway is closed");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn check(spec: &GatewaySpec) -> Result<(), OpenError> {
    if spec.token.len() < SHORTEST_TOKEN || !plain(&spec.token) {
        return Err(OpenError::Token);
    }
    if spec.cookie_name.is_empty() || !plain(&spec.cookie_name) {
        return Err(OpenError::CookieName(spec.cookie_name.clone()));
    }
    Ok(())
}

/// Tells whether a text can stand unquoted in a URL, a header and a cookie.
fn plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}
