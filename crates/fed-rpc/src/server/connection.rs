//! A connection whose peer has proved which key it holds.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::identity::Fingerprint;
use crate::outgoing::{Greeted, shown};
use crate::possession::ChannelBinding;

/// Who is at the other end of a connection.
///
/// Handlers find it with `request.extensions().get::<PeerIdentity>()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Where the peer came from, or where it was dialled.
    pub remote: SocketAddr,
    /// The key it proved to hold.
    pub fingerprint: Fingerprint,
    /// What proofs of possession on this connection are bound to.
    pub binding: ChannelBinding,
}

/// A TLS connection after its handshake, whichever end has opened it.
#[derive(Debug)]
pub struct TlsConn {
    stream: Greeted,
    peer: PeerIdentity,
    _kept: Option<Box<dyn Any + Send + Sync>>,
}

impl TlsConn {
    /// Takes a connection after its handshake; `None` without a certificate of the peer.
    pub(crate) fn new(stream: Greeted, remote: SocketAddr) -> Option<Self> {
        let (fingerprint, binding) = shown(stream.get_ref())?;
        Some(Self {
            stream,
            peer: PeerIdentity {
                remote,
                fingerprint,
                binding,
            },
            _kept: None,
        })
    }

    /// Keeps something until the connection is dropped.
    #[must_use]
    pub fn keeping(self, what: impl Any + Send + Sync) -> Self {
        Self {
            _kept: Some(Box::new(what)),
            ..self
        }
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
