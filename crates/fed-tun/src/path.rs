//! The packet path: one read or write for one packet, plainly.
//!
//! Whatever speeds it up (several packets in one system call, segmentation offloads) changes this
//! module alone.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use fed_mesh::Transmit;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Packets taken from one source in a row, before the other has its turn.
const BATCH: usize = 64;

/// The largest datagram, in bytes.
const DATAGRAM_MAX: usize = 65_535;

/// Room asked of the kernel for datagrams that wait, in bytes; it may grant less.
const SOCKET_BUFFER: usize = 4 << 20;

/// What the path itself lost; the router counts what it drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Packets for the TUN while its queue was full.
    pub tun_full: u64,
    /// Packets that the TUN refused, for example because the device is down.
    pub tun_refused: u64,
    /// Datagrams while the socket's send buffer was full.
    pub udp_full: u64,
    /// Datagrams that the kernel refused to send, for example for want of a route.
    pub udp_refused: u64,
    /// Errors instead of datagrams on the socket.
    pub udp_receive_errors: u64,
}

/// A TUN device and a UDP socket, both non-blocking.
pub(crate) struct Path {
    tun: AsyncFd<OwnedFd>,
    udp: AsyncFd<UdpSocket>,
    /// Whether the socket speaks IPv6, and so wants IPv4 addresses in their mapped form.
    ipv6: bool,
    buffer: Box<[u8]>,
    pub(crate) losses: Losses,
}

impl Path {
    /// Takes both over. Needs a runtime around it.
    pub(crate) fn new(tun: OwnedFd, udp: UdpSocket) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&tun, FcntlArg::F_GETFL)?);
        fcntl(&tun, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        udp.set_nonblocking(true)?;
        for granted in [
            // A process that may, exceeds the limit of the host; for others it is cut to that.
            setsockopt(&udp, sockopt::RcvBufForce, &SOCKET_BUFFER)
                .or_else(|_| setsockopt(&udp, sockopt::RcvBuf, &SOCKET_BUFFER)),
            setsockopt(&udp, sockopt::SndBufForce, &SOCKET_BUFFER)
                .or_else(|_| setsockopt(&udp, sockopt::SndBuf, &SOCKET_BUFFER)),
        ] {
            if let Err(error) = granted {
                tracing::debug!(%error, "the UDP socket keeps its default buffers");
            }
        }
        Ok(Self {
            ipv6: udp.local_addr()?.is_ipv6(),
            // Writes do not wait, so only reads are watched.
            tun: watched(tun)?,
            udp: watched(udp)?,
            buffer: vec![0; DATAGRAM_MAX].into(),
            losses: Losses::default(),
        })
    }

    /// Waits until there is something to read. May be cancelled without loss.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        // The guards are dropped without a word, so that what is ready stays ready until a read
        // finds nothing more.
        tokio::select! {
            tun = self.tun.readable() => tun.map(drop),
            udp = self.udp.readable() => udp.map(drop),
        }
    }

    /// Hands the packets that wait in the TUN to `take`, up to a batch of them.
    ///
    /// # Errors
    /// The device is gone.
    pub(crate) fn read_tun(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        for _ in 0..BATCH {
            let read = self.tun.try_io(Interest::READABLE, |tun| {
                Ok(nix::unistd::read(tun, &mut self.buffer)?)
            });
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => take(&self.buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Hands the datagrams that wait in the socket to `take`, up to a batch of them.
    pub(crate) fn read_udp(&mut self, mut take: impl FnMut(SocketAddr, &[u8])) {
        for _ in 0..BATCH {
            let read = self
                .udp
                .try_io(Interest::READABLE, |udp| udp.recv_from(&mut self.buffer));
            match read {
                Ok((length, from)) => take(from, &self.buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "the UDP socket reports an error");
                    self.losses.udp_receive_errors += 1;
                }
            }
        }
    }

    /// Sends a datagram, or loses it.
    pub(crate) fn send(&mut self, transmit: &Transmit) {
        let to = self.addressed(transmit.to);
        if let Err(error) = self.udp.get_ref().send_to(&transmit.payload, to) {
            if error.kind() == io::ErrorKind::WouldBlock {
                self.losses.udp_full += 1;
            } else {
                tracing::debug!(%error, %to, "a datagram could not be sent");
                self.losses.udp_refused += 1;
            }
        }
    }

    /// Writes a packet to the TUN, or loses it.
    pub(crate) fn deliver(&mut self, packet: &[u8]) {
        match nix::unistd::write(self.tun.get_ref().as_fd(), packet) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::ENOBUFS) => self.losses.tun_full += 1,
            Err(error) => {
                tracing::debug!(%error, "the TUN refused a packet");
                self.losses.tun_refused += 1;
            }
        }
    }

    /// The form of an address that the socket takes.
    fn addressed(&self, to: SocketAddr) -> SocketAddr {
        match to.ip() {
            IpAddr::V4(v4) if self.ipv6 => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
            IpAddr::V4(_) | IpAddr::V6(_) => to,
        }
    }
}

/// Puts a descriptor under the runtime's eyes, for reading alone.
fn watched<T: AsRawFd + Owned>(descriptor: T) -> io::Result<AsyncFd<T>> {
    #[expect(
        unsafe_code,
        reason = "tokio asks for a promise that the descriptor stays open"
    )]
    // SAFETY: an `Owned` type keeps the one descriptor it has open as long as it lives, and the
    // `AsyncFd` takes it over.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(watched?)
}

/// Types that own one descriptor, always the same, from their making to their drop.
trait Owned {}

impl Owned for OwnedFd {}
impl Owned for UdpSocket {}
