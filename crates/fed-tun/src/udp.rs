//! A UDP socket that sends and receives many datagrams in one call, where its kernel can.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{PoisonError, RwLock};

use fed_mesh::{Output, Train};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use crate::losses::Counters;

/// Room asked of the kernel for datagrams that wait, in bytes; it may grant less.
const SOCKET_BUFFER: usize = 4 << 20;

/// The largest datagram, and the most that the kernel joins to one, in bytes.
const DATAGRAM_MAX: usize = 65_535;

/// From one buffer to the next, in bytes. Caches put bytes whose addresses differ by a power of two
/// in the same place: where datagrams are not joined, the first bytes of all buffers are to fit
/// beside each other.
const STRIDE: usize = 65_536 + 24 * 64;

/// What one call may send: the largest UDP payload over IPv4, in bytes.
const TRAIN_BYTES: usize = 65_507;

/// Buffers for one call that receives.
const BUFFERS: usize = BATCH_SIZE;

/// As many are used while they come filled with joined datagrams, up to 64 KiB each: more of them
/// would only be cold when their turn comes.
const BUFFERS_JOINED: usize = 4;

/// What is longer than this has been joined of many, in bytes.
const JOINED: usize = 16_384;

/// A UDP socket, non-blocking.
pub(crate) struct Udp {
    socket: UdpSocket,
    /// What the kernel is known to be able to; made anew when it turns out otherwise.
    state: RwLock<UdpSocketState>,
    /// Whether to send several datagrams in one call at all.
    segmentation: bool,
    /// Whether to receive several joined to one.
    joining: bool,
    /// Whether the socket speaks IPv6, and so wants IPv4 addresses in their mapped form.
    ipv6: bool,
}

/// Memory for datagrams that come in.
pub(crate) struct Arrivals {
    memory: Box<[u8]>,
    meta: [RecvMeta; BUFFERS],
    filled: usize,
    /// How many buffers the next call is given.
    offered: usize,
    exhausted: bool,
}

/// Whether sending could not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It was sent, or refused and counted.
    Done,
    /// The socket's buffer is full: nothing was sent.
    Full,
}

impl Udp {
    /// Takes a bound socket over.
    pub(crate) fn new(socket: UdpSocket, segmentation: bool, joining: bool) -> io::Result<Self> {
        let state = state(&socket, joining)?;
        for granted in [
            // A process that may, exceeds the limit of the host; for others it is cut to that.
            setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)
                .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER)),
            setsockopt(&socket, sockopt::SndBufForce, &SOCKET_BUFFER)
                .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &SOCKET_BUFFER)),
        ] {
            if let Err(error) = granted {
                tracing::debug!(%error, "the UDP socket keeps its default buffers");
            }
        }
        Ok(Self {
            ipv6: socket.local_addr()?.is_ipv6(),
            segmentation,
            joining,
            state: RwLock::new(state),
            socket,
        })
    }

    /// The trains of `output`, as long as this socket sends them in one call.
    pub(crate) fn trains<'o>(&self, output: &'o Output) -> impl Iterator<Item = Train<'o>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let datagrams = if self.segmentation {
            state.max_gso_segments()
        } else {
            1
        };
        output.trains(datagrams, TRAIN_BYTES)
    }

    /// Sends a train, or counts what the kernel refuses.
    pub(crate) fn send(&self, train: Train<'_>, losses: &Counters) -> Sent {
        match self.try_send(train) {
            Ok(()) => Sent::Done,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Sent::Full,
            Err(_) if train.datagrams() > 1 => self.send_singly(train, losses),
            Err(error) => {
                count_refusal(&error, train, losses);
                Sent::Done
            }
        }
    }

    /// Sends the datagrams of a train that was refused, each by itself.
    fn send_singly(&self, train: Train<'_>, losses: &Counters) -> Sent {
        let mut too_long = false;
        for bytes in train.bytes.chunks(train.segment) {
            match self.try_send(Train { bytes, ..train }) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => losses.udp_full.add(1),
                Err(error) => {
                    too_long |= is_too_long(&error);
                    count_refusal(&error, train, losses);
                }
            }
        }
        if too_long {
            // A kernel says the same of trains that it cannot send and of trains whose datagrams
            // are too long for the path: these say nothing about the next ones.
            if let Ok(fresh) = state(&self.socket, self.joining) {
                *self.state.write().unwrap_or_else(PoisonError::into_inner) = fresh;
            }
        }
        Sent::Done
    }

    fn try_send(&self, train: Train<'_>) -> io::Result<()> {
        let transmit = Transmit {
            destination: self.addressed(train.to),
            ecn: None,
            contents: train.bytes,
            segment_size: (train.datagrams() > 1).then_some(train.segment),
            src_ip: None,
        };
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    /// Receives what waits, without waiting itself; whether there was anything.
    pub(crate) fn receive(&self, arrivals: &mut Arrivals, losses: &Counters) -> bool {
        arrivals.filled = 0;
        let mut chunks = arrivals.memory.chunks_exact_mut(STRIDE);
        let mut buffers: [IoSliceMut<'_>; BUFFERS] = std::array::from_fn(|_| {
            let chunk = chunks.next().expect("one for each");
            IoSliceMut::new(&mut chunk[..DATAGRAM_MAX])
        });
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let socket = UdpSockRef::from(&self.socket);
        match state.recv(socket, &mut buffers[..arrivals.offered], &mut arrivals.meta) {
            Ok(filled) => {
                arrivals.filled = filled;
                arrivals.exhausted = filled < arrivals.offered;
                let joined = arrivals.meta[..filled].iter().any(|meta| meta.len > JOINED);
                arrivals.offered = if joined { BUFFERS_JOINED } else { BUFFERS };
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => {
                tracing::debug!(%error, "the UDP socket reports an error");
                losses.udp_receive_errors.add(1);
                arrivals.exhausted = false;
                true
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

/// Prepares a socket, for what is read of each datagram here: itself, where it is from, and the
/// lengths of what the kernel joined. The rest (time, destination, traffic class) it would look up
/// for each one, or for each on the whole machine.
fn state(socket: &UdpSocket, joining: bool) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    // Where the kernel knows no such option, or not for this family, it does no such thing.
    let _unknown = [
        setsockopt(socket, sockopt::UdpGroSegment, &joining),
        setsockopt(socket, sockopt::ReceiveTimestampns, &false),
        setsockopt(socket, sockopt::IpRecvTos, &false),
        setsockopt(socket, sockopt::Ipv4PacketInfo, &false),
        setsockopt(socket, sockopt::Ipv6RecvTClass, &false),
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &false),
    ];
    Ok(state)
}

fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

fn count_refusal(error: &io::Error, train: Train<'_>, losses: &Counters) {
    tracing::debug!(%error, to = %train.to, "a datagram could not be sent");
    if is_too_long(error) {
        losses.udp_too_long.add(1);
    } else {
        losses.udp_refused.add(1);
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            memory: vec![0; BUFFERS * STRIDE].into(),
            meta: [RecvMeta::default(); BUFFERS],
            filled: 0,
            offered: BUFFERS,
            exhausted: false,
        }
    }
}

impl Arrivals {
    /// The bytes received last.
    pub(crate) fn bytes(&self) -> usize {
        self.meta[..self.filled].iter().map(|meta| meta.len).sum()
    }

    /// Whether nothing waited beyond what was received last.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// The datagrams received last, in order, with their senders.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let buffers = self.memory.chunks_exact(STRIDE);
        let joined = buffers.zip(&self.meta[..self.filled]);
        joined.flat_map(|(buffer, meta)| {
            let datagrams = buffer[..meta.len].chunks(meta.stride.max(1));
            datagrams.map(|datagram| (meta.addr, datagram))
        })
    }
}
