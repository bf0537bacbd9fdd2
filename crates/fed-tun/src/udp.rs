//! A UDP socket that sends and receives many datagrams in one call, where its kernel can.

use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use fed_mesh::{Output, Train};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};

use crate::losses::Counters;
use crate::refusals::{Extent, RETRY, Refusals};

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
    state: UdpSocketState,
    /// How many datagrams to send in one call, as the kernel said at the start. Quinn's own count is
    /// of no use later: whatever datagram is refused with EINVAL or EIO, even one that was sent by
    /// itself, it takes for a lack of segmentation and counts 1 for good.
    together: usize,
    /// Where to send one by one nevertheless.
    refusals: Refusals,
    /// Whether several are received joined to one.
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
        let (state, joining) = state(&socket, joining)?;
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
            together: if segmentation {
                state.max_gso_segments()
            } else {
                1
            },
            refusals: Refusals::default(),
            joining,
            state,
            socket,
        })
    }

    /// Whether several datagrams are sent in one call, to some destinations at least.
    pub(crate) fn sends_together(&self) -> bool {
        self.together > 1 && !self.refusals.concern_all(Instant::now())
    }

    /// Whether several datagrams are received joined to one.
    pub(crate) fn receives_joined(&self) -> bool {
        self.joining
    }

    /// The trains of `output`, as long as this socket sends them in one call.
    pub(crate) fn trains<'o>(&self, output: &'o Output) -> impl Iterator<Item = Train<'o>> {
        let trains = output.trains(self.together, TRAIN_BYTES);
        trains.flat_map(|train| {
            let singly =
                train.datagrams() > 1 && self.refusals.concern(train.to.ip(), Instant::now);
            let length = if singly {
                train.segment
            } else {
                train.bytes.len()
            };
            pieces(train, length)
        })
    }

    /// Sends a train, or counts what the kernel refuses.
    pub(crate) fn send(&self, train: Train<'_>, losses: &Counters) -> Sent {
        match self.try_send(train) {
            Ok(()) => Sent::Done,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Sent::Full,
            Err(error) if train.datagrams() > 1 => {
                if self.send_singly(train, losses) && !is_for_want_of_memory(&error) {
                    self.note_refusal(train.to, &error);
                }
                Sent::Done
            }
            Err(error) => {
                count_refusal(&error, train, losses);
                Sent::Done
            }
        }
    }

    /// Remembers that trains do not go to `to`.
    fn note_refusal(&self, to: SocketAddr, error: &io::Error) {
        let seconds = RETRY.as_secs();
        match self.refusals.add(to.ip(), Instant::now()) {
            Extent::One => tracing::info!(
                %to, %error, seconds, "datagrams do not go there many at a time; they go one by one"
            ),
            Extent::All => tracing::info!(
                %error, seconds, "datagrams go to many places one by one; they all do now"
            ),
        }
    }

    /// Sends the datagrams of a train that was refused, each by itself; whether they could go, so
    /// that it was refused for being a train. A kernel gives the same error for one whose datagrams
    /// cannot go at all, because of their length or where they are to go: that says nothing about
    /// other trains.
    fn send_singly(&self, train: Train<'_>, losses: &Counters) -> bool {
        let (mut sent, mut refused) = (false, false);
        for datagram in pieces(train, train.segment) {
            match self.try_send(datagram) {
                Ok(()) => sent = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => losses.udp_full.add(1),
                Err(error) => {
                    refused = true;
                    count_refusal(&error, datagram, losses);
                }
            }
        }
        sent && !refused
    }

    fn try_send(&self, train: Train<'_>) -> io::Result<()> {
        let transmit = Transmit {
            destination: self.addressed(train.to),
            ecn: None,
            contents: train.bytes,
            segment_size: (train.datagrams() > 1).then_some(train.segment),
            src_ip: None,
        };
        self.state
            .try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    /// Receives what waits, without waiting itself; whether there was anything.
    pub(crate) fn receive(&self, arrivals: &mut Arrivals, losses: &Counters) -> bool {
        arrivals.filled = 0;
        let mut chunks = arrivals.memory.chunks_exact_mut(STRIDE);
        let mut buffers: [IoSliceMut<'_>; BUFFERS] = std::array::from_fn(|_| {
            let chunk = chunks.next().expect("one for each");
            IoSliceMut::new(&mut chunk[..DATAGRAM_MAX])
        });
        let socket = UdpSockRef::from(&self.socket);
        let buffers = &mut buffers[..arrivals.offered];
        match self.state.recv(socket, buffers, &mut arrivals.meta) {
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
/// for each one, or for each on the whole machine. Returns also whether datagrams come in joined,
/// which `joining` asks for.
fn state(socket: &UdpSocket, joining: bool) -> io::Result<(UdpSocketState, bool)> {
    let state = UdpSocketState::new(UdpSockRef::from(socket))?;
    // Where the kernel knows no such option, or not for this family, it does no such thing.
    let joins = setsockopt(socket, sockopt::UdpGroSegment, &joining).is_ok() && joining;
    let _unknown = [
        setsockopt(socket, sockopt::ReceiveTimestampns, &false),
        setsockopt(socket, sockopt::IpRecvTos, &false),
        setsockopt(socket, sockopt::Ipv4PacketInfo, &false),
        setsockopt(socket, sockopt::Ipv6RecvTClass, &false),
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &false),
    ];
    Ok((state, joins))
}

/// The same in pieces of `length` bytes, a multiple of its segments'.
fn pieces(train: Train<'_>, length: usize) -> impl Iterator<Item = Train<'_>> {
    let pieces = train.bytes.chunks(length.max(1));
    pieces.map(move |bytes| Train { bytes, ..train })
}

/// Whether an error says nothing about the train, and may not come again.
fn is_for_want_of_memory(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Ends a test that hangs; nothing is measured by it.
    const HANG: Duration = Duration::from_secs(60);

    fn train(to: SocketAddr, bytes: &[u8], segment: usize) -> Train<'_> {
        Train { to, bytes, segment }
    }

    #[test]
    fn what_cannot_go_at_all_does_not_end_trains_to_others() {
        let [sender, receiver] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        receiver.set_read_timeout(Some(HANG)).unwrap();
        let udp = Udp::new(sender, true, true).unwrap();
        assert!(udp.sends_together(), "this kernel has no UDP_SEGMENT");
        let losses = Counters::default();
        // EINVAL, one datagram as well as many.
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        for datagrams in [1, 5] {
            let refused = train(nowhere, &[0; 5][..datagrams], 1);
            assert_eq!(udp.send(refused, &losses), Sent::Done);
            assert!(
                udp.sends_together(),
                "after {datagrams} datagrams to port 0"
            );
        }
        assert_eq!(losses.losses().udp_refused, 6);
        // Longer than any device carries, alone and with a short one behind it.
        let to = receiver.local_addr().unwrap();
        for (bytes, segment) in [(65_508, 65_508), (65_509, 65_508)] {
            let too_long = vec![0; bytes];
            assert_eq!(udp.send(train(to, &too_long, segment), &losses), Sent::Done);
            assert!(udp.sends_together(), "after {bytes} bytes");
        }
        assert_eq!(losses.losses().udp_too_long, 2);
        assert_eq!(receiver.recv(&mut [0; 2]).unwrap(), 1);
        let bytes: Vec<u8> = (0..60).collect();
        assert_eq!(udp.send(train(to, &bytes, 1), &losses), Sent::Done);
        for number in bytes {
            let mut datagram = [0; 2];
            assert_eq!(receiver.recv(&mut datagram).unwrap(), 1);
            assert_eq!(datagram[0], number);
        }
    }
}
