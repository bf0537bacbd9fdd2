//! The way into the sandbox's network.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::net::TcpStream;

/// How long a connection inside the sandbox may take: it never leaves the host.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens TCP connections inside the sandbox.
///
/// Functions `Fn(SocketAddr) -> impl Future<Output = io::Result<TcpStream>>` are dials too.
pub trait Dial: Send + Sync + 'static {
    /// Connects to an address as seen from inside the sandbox.
    fn dial(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>>;
}

impl<F, Connecting> Dial for F
where
    F: Fn(SocketAddr) -> Connecting + Send + Sync + 'static,
    Connecting: Future<Output = io::Result<TcpStream>> + Send + 'static,
{
    fn dial(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        self(to).boxed()
    }
}

/// One listener inside the sandbox.
#[derive(Clone)]
pub(super) struct Target {
    dial: Arc<dyn Dial>,
    address: SocketAddr,
}

impl Target {
    pub(super) fn new(dial: Arc<dyn Dial>, address: SocketAddr) -> Self {
        Self { dial, address }
    }

    /// Connects, without waiting to fill segments: messages go back and forth.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let stream = tokio::time::timeout(PATIENCE, self.dial.dial(self.address))
            .await
            .map_err(|_| {
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} s", PATIENCE.as_secs()),
                )
            })??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)
    }
}
