//! The accepting end: a stream of connections whose handshake is done and whose peer is known.

mod connection;
mod handshake;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;

use crate::identity::Fingerprint;
use crate::shares::{Shares, Source};

pub use connection::{PeerIdentity, TlsConn};
pub(crate) use handshake::linger;

/// A peer that has said nothing for this long is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A peer that has not answered the question for this long is gone.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls that one connection may have open at a time.
const STREAMS_PER_CONNECTION: u32 = 128;
/// Rest after an `accept` that failed for want of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How much time and room strangers get before they have shown who they are.
#[derive(Clone, Copy, Debug)]
pub struct HandshakeLimits {
    /// Longest time from `accept` to the end of the handshake. Default 5 s.
    pub timeout: Duration,
    /// Most handshakes at a time, shared among the addresses that they come from: whoever has most
    /// makes room for the others. Where every address has one, further connections wait in the
    /// listener's queue. Default 128.
    pub concurrent: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            concurrent: 128,
        }
    }
}

/// A connection that did not come about, for the caller to log.
#[derive(Debug, Error)]
pub enum IncomingFailure {
    /// The operating system did not hand out a connection.
    #[error("cannot accept a connection")]
    Accept(#[source] io::Error),
    /// The client proved to hold a key that is not admitted.
    #[error("refused {remote}: its key {fingerprint} is not admitted")]
    Refused {
        /// Where the client came from.
        remote: SocketAddr,
        /// The key it showed.
        fingerprint: Fingerprint,
    },
    /// The handshake failed: no certificate, another protocol, a broken connection.
    #[error("the TLS handshake with {remote} failed")]
    Handshake {
        /// Where the client came from.
        remote: SocketAddr,
        /// What TLS or the system said.
        source: io::Error,
    },
    /// The handshake was ended in favour of another's: its address had most of them.
    #[error("{remote} had too many TLS handshakes under way while others waited")]
    Displaced {
        /// Where the client came from.
        remote: SocketAddr,
    },
    /// The client did not finish the handshake in time.
    #[error("{remote} did not finish the TLS handshake within {} s", after.as_secs_f64())]
    Timeout {
        /// Where the client came from.
        remote: SocketAddr,
        /// The time it had.
        after: Duration,
    },
}

/// Receives failed connections: `Fn(IncomingFailure)`. Called from the handshakes' own tasks.
pub(crate) type OnFailure = Arc<dyn Fn(IncomingFailure) + Send + Sync>;

/// Returns a tonic server whose connections are watched for peers that vanish.
pub fn builder() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
}

/// Accepts connections and shakes hands with many clients at a time.
///
/// The stream yields connections whose handshake succeeded, for
/// `builder().serve_with_incoming_shutdown(AgentServer::new(…), incoming, …)`. It never yields an
/// error and never ends; what goes wrong with one client goes to `on_failure`. Dropping it closes
/// the listener and every unfinished handshake.
///
/// Must be polled within a tokio runtime.
pub fn incoming(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    limits: HandshakeLimits,
    on_failure: impl Fn(IncomingFailure) + Send + Sync + 'static,
) -> Incoming<TlsConn> {
    let acceptor = TlsAcceptor::from(config);
    Incoming::new(
        listener,
        limits,
        Arc::new(on_failure),
        move |stream, remote, on_failure| {
            handshake::accept(acceptor.clone(), stream, remote, limits.timeout, on_failure)
        },
    )
}

/// What is done with a connection before it is yielded.
type Begin<T> = Box<dyn Fn(TcpStream, SocketAddr) -> BoxFuture<Option<T>> + Send>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The stream that [`incoming`] and [`crate::reverse::callers`] return.
pub struct Incoming<T> {
    listener: TcpListener,
    on_failure: OnFailure,
    begin: Begin<T>,
    handshakes: JoinSet<Option<T>>,
    places: Shares<Source, (AbortHandle, SocketAddr)>,
    rest: Option<Pin<Box<Sleep>>>,
}

impl<T: Send + 'static> Incoming<T> {
    pub(crate) fn new<F, Done>(
        listener: TcpListener,
        limits: HandshakeLimits,
        on_failure: OnFailure,
        begin: F,
    ) -> Self
    where
        F: Fn(TcpStream, SocketAddr, OnFailure) -> Done + Send + 'static,
        Done: Future<Output = Option<T>> + Send + 'static,
    {
        let told = Arc::clone(&on_failure);
        Self {
            listener,
            on_failure,
            begin: Box::new(move |stream, remote| {
                Box::pin(begin(stream, remote, Arc::clone(&told)))
            }),
            handshakes: JoinSet::new(),
            places: Shares::new(limits.concurrent),
            rest: None,
        }
    }

    /// Accepts connections as long as there are any and there is room for their handshakes.
    fn poll_accept(&mut self, context: &mut Context<'_>) {
        while self.places.has_room() {
            if let Some(rest) = &mut self.rest {
                if rest.as_mut().poll(context).is_pending() {
                    return;
                }
                self.rest = None;
            }
            match self.listener.poll_accept(context) {
                Poll::Pending => return,
                Poll::Ready(Ok((stream, remote))) => {
                    let handshake = self.handshakes.spawn((self.begin)(stream, remote));
                    let displaced = self.places.take(remote.ip().into(), (handshake, remote));
                    if let Some((other, remote)) = displaced {
                        other.abort();
                        (self.on_failure)(IncomingFailure::Displaced { remote });
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.rest = Some(Box::pin(sleep(ACCEPT_BACKOFF)));
                    (self.on_failure)(IncomingFailure::Accept(error));
                }
            }
        }
    }
}

impl<T: Send + 'static> Stream for Incoming<T> {
    type Item = io::Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            self.poll_accept(context);
            // An empty set has no waker: the next one to wake this task is the listener.
            let Some(done) = ready!(self.handshakes.poll_join_next_with_id(context)) else {
                return Poll::Pending;
            };
            let id = match &done {
                Ok((id, _)) => *id,
                Err(error) => error.id(),
            };
            self.places.give_back(|(handshake, _)| handshake.id() == id);
            // A task that panicked or failed has no connection, and there may be room again.
            if let Ok((_, Some(connection))) = done {
                return Poll::Ready(Some(Ok(connection)));
            }
        }
    }
}
