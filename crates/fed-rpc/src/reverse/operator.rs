//! The operator's end: it waits for an agent that dials, and calls it over the connection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::callers::{Caller, Transport};
use crate::client::{ConnectError, Connected, channel};
use crate::identity::{Fingerprint, Identity};
use crate::outgoing::shown;
use crate::possession::ChannelBinding;
use crate::server::{HandshakeLimits, linger};
use crate::tls::{NotAdmitted, Pins, cause, server_config};
use crate::v1::agent_client::AgentClient;

/// The agent that is awaited.
#[derive(Clone, Debug)]
pub struct Awaited {
    /// Its site.
    pub site: String,
    /// Where it is awaited: what errors say.
    pub listen: String,
    /// Its keys.
    pub agent: Pins,
    /// How long it is waited for, at first and whenever the connection is lost.
    pub timeout: Duration,
}

/// Waits until an agent with one of the awaited keys dials, and returns a channel to it and where it
/// came from.
///
/// `next` waits for the next connection of somebody who says that he is of this site: it is called
/// anew after each that proves not to be, of which `on_failure` is told, and by the channel when the
/// connection is lost. What a call meets then is found with
/// [`CallError`](crate::status::CallError).
///
/// # Errors
/// When the agent does not dial in time, is another one, refuses this operator, or `next` fails.
pub async fn connect<Next, Waiting>(
    awaited: Awaited,
    identity: &Identity,
    next: Next,
    on_failure: impl Fn(&ConnectError) + Send + Sync + 'static,
) -> Result<(Connected, SocketAddr), ConnectError>
where
    Next: Fn() -> Waiting + Send + Sync + 'static,
    Waiting: Future<Output = io::Result<Caller>> + Send + 'static,
{
    let config = server_config(identity, Arc::new(awaited.agent.clone()));
    let waiter = Arc::new(Waiter {
        acceptor: TlsAcceptor::from(config),
        own: identity.fingerprint(),
        awaited,
        next,
        on_failure: Box::new(on_failure),
    });
    // Awaited here, and not within the channel, so that the error keeps its type.
    let first = waiter.wait().await?;
    let (seen, binding, remote) = (first.seen, first.binding, first.remote);
    let again = move || {
        let waiter = Arc::clone(&waiter);
        async move { waiter.wait().await.map(|call| call.stream) }
    };
    let channel = channel(&remote.to_string(), first.stream, again).await?;
    let agent = AgentClient::new(channel);
    let connected = Connected {
        agent,
        seen,
        binding,
    };
    Ok((connected, remote))
}

struct Waiter<Next> {
    acceptor: TlsAcceptor,
    own: Fingerprint,
    awaited: Awaited,
    next: Next,
    on_failure: Box<dyn Fn(&ConnectError) + Send + Sync>,
}

type Stream = TlsStream<Transport>;

/// A connection of the awaited agent.
struct Call {
    stream: Stream,
    seen: Fingerprint,
    binding: ChannelBinding,
    remote: SocketAddr,
}

impl<Next, Waiting> Waiter<Next>
where
    Next: Fn() -> Waiting,
    Waiting: Future<Output = io::Result<Caller>>,
{
    /// Waits for the agent. Strangers in between are turned away; if the agent does not come, the
    /// last of them is told of.
    async fn wait(&self) -> Result<Call, ConnectError> {
        let deadline = Instant::now() + self.awaited.timeout;
        let mut failure = None;
        loop {
            let Ok(caller) = timeout_at(deadline, (self.next)()).await else {
                return Err(failure.unwrap_or_else(|| self.late()));
            };
            let caller = caller.map_err(|source| ConnectError::Listen {
                site: self.awaited.site.clone(),
                listen: self.awaited.listen.clone(),
                source,
            })?;
            let remote = caller.remote;
            match self.accept(caller).await {
                Ok(call) => return Ok(call),
                Err(Some(source)) => {
                    let error = self.explain(remote, source);
                    (self.on_failure)(&error);
                    failure = Some(error);
                }
                // A connection that has gone silent tells nothing of the agent.
                Err(None) => {}
            }
        }
    }

    /// Shakes hands; nothing if that takes too long.
    async fn accept(&self, caller: Caller) -> Result<Call, Option<io::Error>> {
        let patience = HandshakeLimits::default().timeout;
        let remote = caller.remote;
        let accepting = self
            .acceptor
            .accept(caller.into_transport())
            .into_fallible();
        match timeout(patience, accepting).await {
            Ok(Ok(stream)) => {
                let stream = TlsStream::from(stream);
                let none = || Some(io::Error::other("it showed no certificate"));
                let (seen, binding) = shown(&stream).ok_or_else(none)?;
                Ok(Call {
                    stream,
                    seen,
                    binding,
                    remote,
                })
            }
            Ok(Err((source, stream))) => {
                // It has some time to read why, while the next one is waited for.
                tokio::spawn(async move {
                    let _ = timeout(patience, linger(stream)).await;
                });
                Err(Some(source))
            }
            Err(_) => Err(None),
        }
    }

    fn explain(&self, remote: SocketAddr, source: io::Error) -> ConnectError {
        let address = remote.to_string();
        if let Some(stranger) = cause::<NotAdmitted>(&source) {
            return ConnectError::WrongFingerprint {
                address,
                expected: self.awaited.agent.expected(),
                seen: stranger.seen,
            };
        }
        ConnectError::of_handshake(address, self.own, source)
    }

    fn late(&self) -> ConnectError {
        ConnectError::NoCall {
            site: self.awaited.site.clone(),
            listen: self.awaited.listen.clone(),
            after: self.awaited.timeout,
        }
    }
}
