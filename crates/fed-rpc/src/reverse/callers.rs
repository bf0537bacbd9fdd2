//! The operator's port: connections by what their first message says, before any key is used.

use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Chain, Join};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::server::{HandshakeLimits, Incoming, IncomingFailure, linger};

/// Longest first message that is looked at, in bytes; ours has about 300.
const MAX_HELLO: usize = 16 * 1024;
/// A fatal alert, `unrecognized_name` (RFC 6066 section 3), as a TLS record.
const UNRECOGNISED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
/// How long one that is turned away may take to read that.
const FAREWELL: Duration = Duration::from_secs(2);

/// A connection of which only the first message has been read.
#[derive(Debug)]
pub struct Announced {
    /// The site that the caller says it is of. Not proved.
    pub site: String,
    /// The connection.
    pub caller: Caller,
}

/// A connection that somebody has opened who may be an agent, and its first message.
#[derive(Debug)]
pub struct Caller {
    /// Where it came from.
    pub remote: SocketAddr,
    /// The connection.
    pub stream: TcpStream,
    /// What has been read from it.
    pub read: Vec<u8>,
}

/// What is read from and written to as if nothing had been read.
pub(super) type Transport = Join<Chain<Cursor<Vec<u8>>, OwnedReadHalf>, OwnedWriteHalf>;

impl Caller {
    /// The connection, with what has been read put back in front.
    pub(super) fn into_transport(self) -> Transport {
        let (reader, writer) = self.stream.into_split();
        tokio::io::join(Cursor::new(self.read).chain(reader), writer)
    }

    /// Says that no connection is wanted, and ends it.
    pub async fn turn_away(mut self) {
        let words = async {
            self.stream.write_all(&UNRECOGNISED_NAME).await?;
            linger(self.stream).await
        };
        // The outcome does not matter any more.
        let _ = timeout(FAREWELL, words).await;
    }
}

/// Accepts connections and reads their first messages, many at a time. What is not the first message
/// of an agent goes to `on_failure`.
///
/// Must be polled within a tokio runtime.
pub fn callers(
    listener: TcpListener,
    limits: HandshakeLimits,
    on_failure: impl Fn(IncomingFailure) + Send + Sync + 'static,
) -> Incoming<Announced> {
    let on_failure = Arc::new(on_failure);
    Incoming::new(
        listener,
        limits,
        on_failure,
        move |stream, remote, on_failure| async move {
            match timeout(limits.timeout, announced(stream, remote)).await {
                Ok(Ok(announced)) => return Some(announced),
                Ok(Err(source)) => on_failure(IncomingFailure::Handshake { remote, source }),
                Err(_) => on_failure(IncomingFailure::Timeout {
                    remote,
                    after: limits.timeout,
                }),
            }
            None
        },
    )
}

/// Reads the first message.
async fn announced(mut stream: TcpStream, remote: SocketAddr) -> io::Result<Announced> {
    stream.set_nodelay(true)?;
    let (read, name) = hello(&mut stream).await?;
    let site = name.as_deref().and_then(super::site_of).map(str::to_owned);
    let caller = Caller {
        remote,
        stream,
        read,
    };
    match site {
        Some(site) => Ok(Announced { site, caller }),
        None => {
            caller.turn_away().await;
            let text = format!("it names no site, but {name:?}");
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

/// Reads a ClientHello; returns its bytes, and the name that it asks for.
async fn hello(stream: &mut TcpStream) -> io::Result<(Vec<u8>, Option<String>)> {
    let mut acceptor = Acceptor::default();
    let mut read = Vec::new();
    let mut chunk = [0; 2048];
    while read.len() < MAX_HELLO {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&chunk[..count]);
        let mut fresh = &chunk[..count];
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let name = accepted.client_hello().server_name().map(str::to_owned);
                    return Ok((read, name));
                }
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut said = Vec::new();
                    alert.write(&mut said)?;
                    stream.write_all(&said).await?;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }
    let text = "its first message is too long";
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}
