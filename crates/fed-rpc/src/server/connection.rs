//! A connection whose peer has proved which key it holds.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::identity::Fingerprint;
use crate::possession::ChannelBinding;

/// Who is at the other end of a connection.
///
/// Handlers find it with `request.extensions().get::<PeerIdentity>()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Where the peer came from.
    pub remote: SocketAddr,
    /// The key it proved to hold.
    pub fingerprint: Fingerprint,
    /// What proofs of possession on this connection are bound to.
    pub binding: ChannelBinding,
}

/// A TLS connection after its handshake.
#[derive(Debug)]
pub struct TlsConn {
    stream: TlsStream<TcpStream>,
    peer: PeerIdentity,
}

impl TlsConn {
    /// Takes a connection after its handshake; `None` without a client certificate.
    pub(super) fn new(stream: TlsStream<TcpStream>, remote: SocketAddr) -> Option<Self> {
        let connection = stream.get_ref().1;
        let certificate = connection.peer_certificates()?.first()?;
        let fingerprint = Fingerprint::of_certificate(certificate).ok()?;
        let binding = ChannelBinding::of(connection)?;
        Some(Self {
            stream,
            peer: PeerIdentity {
                remote,
                fingerprint,
                binding,
            },
        })
    }

    /// Returns who is at the other end.
    pub fn peer(&self) -> PeerIdentity {
        self.peer
    }
}

impl Connected for TlsConn {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.peer
    }
}

impl AsyncRead for TlsConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TlsConn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
