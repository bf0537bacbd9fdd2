//! One client's handshake, and the last words to a client that is turned away.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::{IncomingFailure, OnFailure, TlsConn};
use crate::tls::{NotAdmitted, cause};

/// Bytes taken from a refused client before the connection is cut all the same.
const LAST_WORDS: u64 = 64 * 1024;

/// Shakes hands; `None` when that failed and `on_failure` was told.
pub(super) async fn accept(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    remote: SocketAddr,
    timeout: Duration,
    on_failure: OnFailure,
) -> Option<TlsConn> {
    let deadline = Instant::now() + timeout;
    // Small calls go back and forth; waiting to fill a segment would only delay them.
    if let Err(source) = stream.set_nodelay(true) {
        on_failure(IncomingFailure::Handshake { remote, source });
        return None;
    }
    match timeout_at(deadline, acceptor.accept(stream).into_fallible()).await {
        Ok(Ok(stream)) => {
            let connection = TlsConn::new(BufReader::new(stream.into()), remote);
            if connection.is_none() {
                let source = io::Error::other("the client showed no certificate");
                on_failure(IncomingFailure::Handshake { remote, source });
            }
            connection
        }
        Ok(Err((source, stream))) => {
            on_failure(failure(remote, source));
            // The client has its whole time to read why; the outcome does not matter any more.
            let _ = timeout_at(deadline, linger(stream)).await;
            None
        }
        Err(_) => {
            on_failure(IncomingFailure::Timeout {
                remote,
                after: timeout,
            });
            None
        }
    }
}

fn failure(remote: SocketAddr, source: io::Error) -> IncomingFailure {
    match cause::<NotAdmitted>(&source) {
        Some(refusal) => IncomingFailure::Refused {
            remote,
            fingerprint: refusal.seen,
        },
        None => IncomingFailure::Handshake { remote, source },
    }
}

/// Ends the connection so that the alert arrives: closing a socket with unread bytes sends a
/// reset, which may overtake it.
pub(crate) async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(LAST_WORDS), &mut tokio::io::sink()).await?;
    Ok(())
}
