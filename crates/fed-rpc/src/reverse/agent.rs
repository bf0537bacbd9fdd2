//! The agent's end: it dials, and is called over the connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::client::Stage;
use crate::identity::Fingerprint;
use crate::outgoing::{OpenError, alert, greet, is_address, open, refusal};
use crate::server::TlsConn;
use crate::tls::{NotAdmitted, cause};

/// How long a connection is silent before the other host is asked whether it is still there, and how
/// often and how many times it is asked: after 11 s it is known.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRY: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

/// How long the parts of dialling may take.
#[derive(Clone, Copy, Debug)]
pub struct DialLimits {
    /// Name and TCP. Default 5 s.
    pub connect: Duration,
    /// From there until the operator has shown its key and begun to speak: one that listens without
    /// wanting a connection yet may keep it for later, for 50 s at most. Default 60 s.
    pub answer: Duration,
}

impl Default for DialLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(60),
        }
    }
}

/// Why a dialled operator does not call over the connection. The address is known to whoever dials.
#[derive(Debug, Error)]
pub enum DialError {
    /// The address is not of the form `host:port`, or the site's name cannot be sent.
    #[error("{text:?} cannot be dialled; write host:port, and an IPv6 host in brackets")]
    Address {
        /// What was given.
        text: String,
    },
    /// The host's name has no address.
    #[error("its name has no address ({0})")]
    Resolve(#[source] io::Error),
    /// No TCP connection, or it was lost: most likely no command of the operator listens now.
    #[error("nobody listens there ({0})")]
    Unreachable(#[source] io::Error),
    /// It took too long.
    #[error("no answer ({0})")]
    Timeout(Stage),
    /// The operator listens, but wants no connection of this site now.
    #[error("it wants no connection now")]
    NotWanted,
    /// Something accepts connections and says nothing, longer than an operator would.
    #[error(
        "it accepted the connection and said nothing for {} s: what listens there is no operator, or \
         something on the way swallows what is sent", .0.as_secs()
    )]
    Silent(Duration),
    /// Whoever answers holds a key that is not enrolled here.
    #[error(
        "whoever answers has the key {seen}, which is not enrolled here; let the operator in with \
         `fed agent invite`, or correct `dial`"
    )]
    Stranger {
        /// The key that was shown.
        seen: Fingerprint,
        /// Where.
        remote: SocketAddr,
    },
    /// The operator knows another key of this site.
    #[error(
        "the operator does not take this agent's key: it has enrolled another one; invite it again"
    )]
    Refused(AlertDescription),
    /// The other end does not speak TLS 1.3 and HTTP/2 as an operator does.
    #[error("what listens there is no operator ({0})")]
    Protocol(#[source] io::Error),
}

impl From<OpenError> for DialError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Resolve(source) => Self::Resolve(source),
            OpenError::Unreachable(source) => Self::Unreachable(source),
            OpenError::Timeout(stage) => Self::Timeout(stage),
        }
    }
}

/// Dials an operator at `address` (`host:port`), as the agent of `site`, once.
///
/// Returns when the operator has been admitted, has admitted this agent and has begun to speak: the
/// connection is then to be served as one of [`crate::server::incoming`]. `config` is one of
/// [`crate::tls::dialling_config`].
///
/// # Errors
/// When nobody answers, or one of the two does not admit the other.
pub async fn dial(
    address: &str,
    site: &str,
    config: &Arc<ClientConfig>,
    limits: DialLimits,
) -> Result<TlsConn, DialError> {
    let unusable = |text: String| DialError::Address { text };
    if !is_address(address) {
        return Err(unusable(address.to_owned()));
    }
    let name = super::server_name(site);
    let name = ServerName::try_from(name.clone()).map_err(|_| unusable(name))?;
    let stream = open(address, Instant::now() + limits.connect).await?;
    let remote = stream.peer_addr().map_err(DialError::Unreachable)?;
    let watched = SockRef::from(&stream).set_tcp_keepalive(&keepalive());
    watched.map_err(DialError::Unreachable)?;
    let connector = TlsConnector::from(Arc::clone(config));
    let greeted = timeout_at(
        Instant::now() + limits.answer,
        greet(&connector, name, stream),
    );
    let stream = greeted
        .await
        .map_err(|_| DialError::Silent(limits.answer))?
        .map_err(|source| explain(source, remote))?;
    TlsConn::new(stream, remote)
        .ok_or_else(|| DialError::Protocol(io::Error::other("it showed no certificate")))
}

/// An operator whose host has gone must not be waited for as long as one that has nothing to say;
/// and firewalls on the way must not forget a connection that nobody uses yet.
fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_RETRY)
        .with_retries(KEEPALIVE_RETRIES)
}

fn explain(source: io::Error, remote: SocketAddr) -> DialError {
    if let Some(stranger) = cause::<NotAdmitted>(&source) {
        let seen = stranger.seen;
        return DialError::Stranger { seen, remote };
    }
    if let Some(alert) = refusal(&source) {
        return DialError::Refused(alert);
    }
    // One that ends has no time for words.
    let gone = matches!(
        source.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    );
    if gone || alert(&source) == Some(AlertDescription::UnrecognisedName) {
        return DialError::NotWanted;
    }
    let of_tls = source
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>());
    match of_tls {
        true => DialError::Protocol(source),
        false => DialError::Unreachable(source),
    }
}
