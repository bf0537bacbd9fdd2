//! The calling end: a channel to the one agent whose key is pinned.

mod dial;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint};

use crate::identity::{Fingerprint, Identity};
use crate::outgoing::{refusal, shown};
use crate::possession::ChannelBinding;
use crate::tls::Pins;
use crate::v1::agent_client::AgentClient;

use dial::Dialer;

/// Default time for the whole of connecting: name, TCP, TLS and the agent's first words.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An agent that has said nothing for this long is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// An agent that has not answered the question for this long is gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Stands in the requests' URI, which must have a host; the connector dials the real address.
const AUTHORITY: &str = "http://agent.fed.invalid";

/// Why there is no connection to an agent.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The address is not of the form `host:port`.
    #[error("{address:?} is not an address; write host:port, and an IPv6 host in brackets")]
    Address {
        /// What was given.
        address: String,
    },
    /// The host's name has no address.
    #[error("cannot find the address of {address}; check the name, or give an IP address")]
    Resolve {
        /// What was to be dialled.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No TCP connection.
    #[error("cannot reach {address}; check that `fed agent run` runs there and the port is open")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// What the system said about the last address tried.
        source: io::Error,
    },
    /// Something took too long.
    #[error("{address} did not answer within {} s ({stage}); check the address and the firewalls", after.as_secs_f64())]
    Timeout {
        /// What was dialled.
        address: String,
        /// What was waited for.
        stage: Stage,
        /// The time for all stages together.
        after: Duration,
    },
    /// The agent holds another key than the pinned one.
    #[error(
        "{address} is not the agent that was enrolled: expected {expected}, saw {seen}; if the agent was set up anew, ask for a new invitation and run `fed site add` again, otherwise somebody may stand in between"
    )]
    WrongFingerprint {
        /// What was dialled.
        address: String,
        /// The pinned key.
        expected: Fingerprint,
        /// The key that was shown.
        seen: Fingerprint,
    },
    /// The agent turned this caller's key away.
    #[error(
        "{address} refuses the key {fingerprint}: it is not enrolled there (any more), or its invitation is used or expired; ask the site for an invitation (`fed agent invite`) and run `fed site add`"
    )]
    Refused {
        /// What was dialled.
        address: String,
        /// The caller's own key.
        fingerprint: Fingerprint,
        /// The TLS alert that the agent sent.
        alert: AlertDescription,
    },
    /// The other end does not speak TLS 1.3 and HTTP/2 as an agent does.
    #[error("{address} does not answer as a fed agent does; check the port")]
    Protocol {
        /// What was dialled.
        address: String,
        /// What TLS or the system said.
        source: io::Error,
    },
    /// The port at which an agent is awaited that dials cannot be listened on.
    #[error(
        "cannot listen on {listen}, where the agent of {site} dials: {source}; `ss -ltnp` shows who has the port"
    )]
    Listen {
        /// The site.
        site: String,
        /// Where it was to be awaited.
        listen: String,
        /// What the system said.
        source: io::Error,
    },
    /// An agent that dials has not done so.
    #[error(
        "the agent of {site} has not dialled us in {} s, while we listened at {listen}; check that it runs, that its `dial` names this host and port, and that no firewall here stops TCP to the port", after.as_secs_f64()
    )]
    NoCall {
        /// The site.
        site: String,
        /// Where it was awaited.
        listen: String,
        /// How long.
        after: Duration,
    },
    /// HTTP/2 could not start on the connection.
    #[error("cannot start HTTP/2 with {address}")]
    Http {
        /// What was dialled.
        address: String,
        /// What the transport said.
        source: tonic::transport::Error,
    },
}

impl ConnectError {
    /// Whether another program of this host has the port at which the agent is awaited.
    pub fn is_port_taken(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// Says why a handshake with `address` failed, in which `own` was shown.
    pub(crate) fn of_handshake(address: String, own: Fingerprint, source: io::Error) -> Self {
        match refusal(&source) {
            Some(alert) => Self::Refused {
                address,
                fingerprint: own,
                alert,
            },
            None => Self::Protocol { address, source },
        }
    }
}

/// A part of connecting that can take too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Asking for the host's addresses.
    Resolve,
    /// The TCP connection.
    Connect,
    /// The TLS handshake and the agent's first words.
    Handshake,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Resolve => "looking up its name",
            Self::Connect => "opening the connection",
            Self::Handshake => "shaking hands",
        })
    }
}

/// Connects to the agent at `address` (`host:port`) whose key is `agent`.
///
/// When it returns, the agent has admitted the caller. `timeout` bounds the whole, and also each
/// later attempt: the channel connects again by itself when the connection is lost. What a call
/// meets then is found with [`CallError`](crate::status::CallError).
///
/// # Errors
/// When the agent cannot be reached, is another one, or refuses the caller.
pub async fn connect(
    address: &str,
    identity: &Identity,
    agent: Fingerprint,
    timeout: Duration,
) -> Result<AgentClient<Channel>, ConnectError> {
    let connected = connect_to_any(address, identity, &Pins::new([agent]), timeout).await?;
    Ok(connected.agent)
}

/// A channel to an agent, and its first connection.
#[derive(Clone, Debug)]
pub struct Connected {
    /// The channel.
    pub agent: AgentClient<Channel>,
    /// The key that the agent showed.
    pub seen: Fingerprint,
    /// What proofs of possession are bound to. They count on the first connection alone: after
    /// another one was made, the agent refuses them.
    pub binding: ChannelBinding,
}

/// As [`connect`], to an agent that may have one of several keys. A key that is added to the pins
/// counts when the channel connects again.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to_any(
    address: &str,
    identity: &Identity,
    agent: &Pins,
    timeout: Duration,
) -> Result<Connected, ConnectError> {
    let dialer = Arc::new(Dialer::new(address, identity, agent, timeout)?);
    // Dialled here, and not within the channel, so that the error keeps its type.
    let stream = dialer.dial().await?;
    let (seen, binding) = shown(stream.get_ref()).ok_or_else(|| ConnectError::Protocol {
        address: address.to_owned(),
        source: io::Error::other("it showed no certificate"),
    })?;
    let channel = channel(address, stream, move || {
        let dialer = Arc::clone(&dialer);
        async move { dialer.dial().await }
    });
    Ok(Connected {
        agent: AgentClient::new(channel.await?),
        seen,
        binding,
    })
}

/// Speaks HTTP/2 over a connection, and over those that `again` makes when it is lost.
pub(crate) async fn channel<S, Again, Opening>(
    address: &str,
    first: S,
    again: Again,
) -> Result<Channel, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    Again: Fn() -> Opening + Send + 'static,
    Opening: Future<Output = Result<S, ConnectError>> + Send + 'static,
{
    let mut first = Some(first);
    let connector = tower::service_fn(move |_uri| {
        let opening: Pin<Box<dyn Future<Output = _> + Send>> = match first.take() {
            Some(stream) => Box::pin(std::future::ready(Ok(stream))),
            None => Box::pin(again()),
        };
        async { opening.await.map(TokioIo::new) }
    });
    Endpoint::from_static(AUTHORITY)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Http {
            address: address.to_owned(),
            source,
        })
}
