//! Drivers in one process, over UDP on loopback; socket pairs stand in for TUN devices.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use fed_mesh::{Event, KEEPALIVE, Path, PeerConfig, PrivateKey, PublicKey, Router};
use fed_tun::{Closed, Driver, Handle, Losses, Offloads, SetPeersFailed};
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::UnixDatagram;

/// Ends a test that hangs; nothing is measured by it.
const HANG: Duration = Duration::from_secs(60);

const V4: &str = "127.0.0.1:0";
const DUAL: &str = "[::]:0";

struct Node {
    handle: Handle,
    /// The side of the TUN where applications are.
    inside: UnixDatagram,
    key: PublicKey,
    port: u16,
    number: u16,
}

impl Node {
    /// Owns `fd00:0:0:<number>::/64`.
    fn start(number: u16, bind: &str) -> Self {
        Self::start_with(number, UdpSocket::bind(bind).unwrap(), Offloads::ALL)
    }

    fn start_with(number: u16, udp: UdpSocket, offloads: Offloads) -> Self {
        let (inside, tun) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let port = udp.local_addr().unwrap().port();
        let key = PrivateKey::generate();
        let public = key.public_key();
        let handle = {
            let router = Router::new(key, Instant::now());
            Driver::start_with(tun, udp, router, offloads).unwrap()
        };
        Self {
            handle,
            inside: outer_end(inside),
            key: public,
            port,
            number,
        }
    }

    fn inner(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, self.number, 0, 0, 0, 1)
    }

    fn as_peer(&self, endpoint: Option<SocketAddr>) -> PeerConfig {
        PeerConfig {
            public_key: self.key,
            endpoints: endpoint.into_iter().collect(),
            allowed_ips: vec![format!("{}/64", self.inner()).parse().unwrap()],
            keepalive: Some(KEEPALIVE),
        }
    }

    fn at(&self, addr: &str) -> SocketAddr {
        SocketAddr::new(addr.parse().unwrap(), self.port)
    }

    async fn send(&self, to: &Self, payload: &[u8]) -> Vec<u8> {
        let packet = ipv6(self.inner(), to.inner(), payload);
        assert_eq!(self.inside.send(&packet).await.unwrap(), packet.len());
        packet
    }

    async fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 2000];
        let length = within(self.inside.recv(&mut buffer)).await.unwrap();
        buffer.truncate(length);
        buffer
    }
}

fn outer_end(fd: OwnedFd) -> UnixDatagram {
    let socket = std::os::unix::net::UnixDatagram::from(fd);
    socket.set_nonblocking(true).unwrap();
    UnixDatagram::from_std(socket).unwrap()
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], 59, 64];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future)
        .await
        .expect("the driver answers")
}

/// Two nodes of which the first knows where the second is.
async fn pair(first: &str, second: &str, addr: &str) -> (Node, Node) {
    acquainted(Node::start(1, first), Node::start(2, second), addr).await
}

async fn acquainted(a: Node, b: Node, addr: &str) -> (Node, Node) {
    b.handle.set_peers(vec![a.as_peer(None)]).await.unwrap();
    let to_b = b.as_peer(Some(b.at(addr)));
    a.handle.set_peers(vec![to_b]).await.unwrap();
    (a, b)
}

async fn speaks_both_ways(first: &str, second: &str, addr: &str) {
    let (a, b) = pair(first, second, addr).await;
    let sent = a.send(&b, b"there").await;
    assert_eq!(b.receive().await, sent);
    let sent = b.send(&a, &[7; 1240]).await;
    assert_eq!(a.receive().await, sent);

    let seen_by_a = a.handle.peers().await.unwrap().remove(0);
    let seen_by_b = b.handle.peers().await.unwrap().remove(0);
    assert_eq!(seen_by_a.endpoint, Some(b.at(addr)));
    assert_eq!(seen_by_b.endpoint, Some(a.at(addr)));
    for peer in [seen_by_a, seen_by_b] {
        assert_eq!((peer.handshakes(), peer.drops.total()), (1, 0), "{peer:?}");
        assert!(peer.last_handshake.is_some());
        assert!(peer.sent_bytes() > 0 && peer.received_bytes() > 0);
    }
}

#[tokio::test]
async fn packets_pass_between_ipv4_sockets() {
    speaks_both_ways(V4, V4, "127.0.0.1").await;
}

#[tokio::test]
async fn packets_pass_over_ipv4_between_dual_stack_sockets() {
    speaks_both_ways(DUAL, DUAL, "127.0.0.1").await;
}

#[tokio::test]
async fn packets_pass_over_ipv6_between_dual_stack_sockets() {
    speaks_both_ways(DUAL, DUAL, "::1").await;
}

#[tokio::test]
async fn packets_pass_between_an_ipv4_and_a_dual_stack_socket() {
    speaks_both_ways(V4, DUAL, "127.0.0.1").await;
    speaks_both_ways(DUAL, V4, "127.0.0.1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_batches_arrive_whole_and_in_order() {
    let (a, b) = pair(V4, V4, "127.0.0.1").await;
    several_batches(&a, &b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_pass_without_any_offload_of_udp() {
    for (udp_send, udp_receive) in [(false, false), (false, true), (true, false)] {
        let node = |number| {
            let offloads = Offloads {
                tun: false,
                tun_udp: false,
                udp_send,
                udp_receive,
            };
            Node::start_with(number, UdpSocket::bind(V4).unwrap(), offloads)
        };
        let (a, b) = acquainted(node(1), node(2), "127.0.0.1").await;
        several_batches(&a, &b).await;
        let used = b.handle.status().await.unwrap().offloads;
        assert_eq!((used.udp_send, used.udp_receive), (udp_send, udp_receive));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_refuses_many_datagrams_at_once_gets_them_one_by_one() {
    let node = |number| {
        let udp = UdpSocket::bind(V4).unwrap();
        refuse_segmentation(&udp);
        Node::start_with(number, udp, Offloads::ALL)
    };
    let (a, b) = acquainted(node(1), node(2), "127.0.0.1").await;
    several_batches(&a, &b).await;
    let status = a.handle.status().await.unwrap();
    assert_eq!(status.losses, Losses::default());
    // It is one destination, which says nothing about others.
    assert!(status.offloads.udp_send);
}

/// Switches the checksums of a socket off, without which Linux refuses `UDP_SEGMENT` with EINVAL.
fn refuse_segmentation(udp: &UdpSocket) {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap();
    #[expect(unsafe_code, reason = "nix does not know SO_NO_CHECK")]
    // SAFETY: the value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            udp.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            length,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    setsockopt(udp, sockopt::UdpGsoSegment, &1).unwrap();
    let together = udp.send_to(&[0; 2], udp.local_addr().unwrap());
    assert_eq!(together.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    setsockopt(udp, sockopt::UdpGsoSegment, &0).unwrap();
}

async fn several_batches(a: &Node, b: &Node) {
    a.send(b, b"open").await;
    b.receive().await;
    for round in 0..20_u8 {
        let mut sent = Vec::new();
        for number in 0..100_u8 {
            sent.push(a.send(b, &[round, number]).await);
        }
        for packet in sent {
            assert_eq!(b.receive().await, packet);
        }
    }
}

#[tokio::test]
async fn events_tell_who_came() {
    let (a, b) = (Node::start(1, V4), Node::start(2, V4));
    let mut events = b.handle.events().unwrap();
    b.handle.set_peers(vec![a.as_peer(None)]).await.unwrap();
    let to_b = b.as_peer(Some(b.at("127.0.0.1")));
    a.handle.set_peers(vec![to_b]).await.unwrap();
    let expected = Event::HandshakeCompleted {
        peer: a.key,
        path: Path::Udp(a.at("127.0.0.1")),
    };
    while within(events.recv()).await.unwrap() != expected {}
}

#[tokio::test]
async fn refused_peers_are_explained_and_change_nothing() {
    let (a, b) = pair(V4, V4, "127.0.0.1").await;
    let error = a.handle.set_peers(vec![a.as_peer(None)]).await.unwrap_err();
    assert!(matches!(error, SetPeersFailed::Refused(_)));
    let text = error.to_string();
    assert!(text.contains(&a.key.to_string()), "{text}");
    let peers = a.handle.peers().await.unwrap();
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].public_key, b.key);
}

#[tokio::test]
async fn a_full_tun_loses_packets_and_stops_nothing() {
    let (a, b) = pair(V4, V4, "127.0.0.1").await;
    // Nobody reads at b.
    within(async {
        while b.handle.status().await.unwrap().losses.tun_full == 0 {
            a.send(&b, &[1; 1240]).await;
        }
    })
    .await;
    // Once somebody does, packets pass again.
    let sent = within(async {
        loop {
            let sent = a.send(&b, b"after").await;
            let found = async { while b.receive().await != sent {} };
            if tokio::time::timeout(Duration::from_millis(100), found)
                .await
                .is_ok()
            {
                break sent;
            }
        }
    })
    .await;
    assert_eq!(sent[40..], *b"after");
}

#[tokio::test]
async fn a_destination_that_cannot_be_reached_is_counted() {
    let (a, b) = (Node::start(1, V4), Node::start(2, V4));
    let elsewhere = SocketAddr::from((Ipv6Addr::LOCALHOST, b.port));
    a.handle
        .set_peers(vec![b.as_peer(Some(elsewhere))])
        .await
        .unwrap();
    within(async {
        while a.handle.status().await.unwrap().losses.udp_refused == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn stop_closes_everything_for_all_handles() {
    let (a, b) = pair(V4, V4, "127.0.0.1").await;
    let other = a.handle.clone();
    within(a.handle.clone().stop()).await;
    let fd = a.inside.as_raw_fd();
    let read = recv(fd, &mut [0; 1], MsgFlags::MSG_DONTWAIT);
    assert_eq!(read, Ok(0), "the other end of the TUN is closed");
    // Only a closed socket leaves its port to another.
    UdpSocket::bind((Ipv4Addr::LOCALHOST, a.port)).unwrap();
    assert_eq!(other.peers().await, Err(Closed));
    assert_eq!(
        other.set_peers(vec![b.as_peer(None)]).await,
        Err(SetPeersFailed::Closed(Closed))
    );
    assert!(other.events().is_err());
    other.finished().await.unwrap();
    within(other.stop()).await;
}

#[tokio::test]
async fn the_last_handle_takes_the_driver_along() {
    let Node { handle, inside, .. } = Node::start(1, V4);
    let clone = handle.clone();
    drop(handle);
    assert_eq!(clone.peers().await, Ok(vec![]));
    drop(clone);
    assert_eq!(within(inside.recv(&mut [0; 1])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_lost_tun_ends_the_driver_with_a_reason() {
    let Node {
        handle,
        inside,
        port,
        ..
    } = Node::start(1, V4);
    drop(inside);
    let failed = within(handle.finished()).await.unwrap_err();
    let source = std::error::Error::source(&failed).unwrap().to_string();
    assert_eq!(
        source,
        io::Error::from(io::ErrorKind::UnexpectedEof).to_string()
    );
    assert_eq!(handle.peers().await, Err(Closed));
    UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
}
