//! Carries datagrams of the mesh over TLS, where UDP does not pass.
//!
//! To the router, the far end of a bridge is an address on this host's loopback: a task per bridge
//! passes datagrams between a UDP socket there and a TLS connection, each preceded by its length in
//! two bytes. Both ends pin each other's key; what passes is encrypted by WireGuard besides.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fed_core::MemberId;
use fed_rpc::server::{self, HandshakeLimits, TlsConn};
use fed_rpc::shares::Shares;
use fed_rpc::{Fingerprint, Identity, PeerIdentity, tls};
use futures::stream::FuturesUnordered;
use futures::{SinkExt as _, StreamExt as _};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

use self::lines::Lines;

mod lines;

/// How long a connection and its TLS handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after one address of a member the next is tried.
const STAGGER: Duration = Duration::from_millis(250);

/// A connection that is silent is asked this often, in seconds, whether it still stands...
const KEEPALIVE_SECONDS: u32 = 10;

/// ...and one that has not answered for so long is given up, so that another can be made. The
/// firewall on the way may have forgotten it.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// The largest UDP payload, in bytes.
const DATAGRAM_MAX: usize = 65_507;

/// TLS handshakes at a time, shared among the addresses that they come from.
const HANDSHAKES_MAX: usize = 64;

/// Bridges that others may open at a time, shared among the members: one that lost its bridge opens
/// another.
const ACCEPTED_MAX: usize = 256;

type Opened = Arc<Mutex<Lines<AbortHandle>>>;
type Members = Arc<Mutex<BTreeSet<Fingerprint>>>;

/// The bridges of one node.
#[derive(Debug)]
pub(super) struct Bridges {
    identity: Identity,
    /// The router's UDP port on this host.
    port: u16,
    members: Members,
    opened: Opened,
    _listening: Option<AbortOnDropHandle<()>>,
}

impl Bridges {
    /// Makes a key, and listens at the TCP port with the number of the mesh's UDP port.
    pub(super) async fn start(port: u16) -> io::Result<Self> {
        Self::start_for(port, ACCEPTED_MAX).await
    }

    /// As [`Self::start`], with another number of bridges that others may open.
    async fn start_for(port: u16, most: usize) -> io::Result<Self> {
        let identity = Identity::generate("fed node").map_err(io::Error::other)?;
        let members = Members::default();
        let listening = match listen(port).await {
            Ok(listener) => {
                let known = Arc::clone(&members);
                let admit = move |peer: &Fingerprint| lock(&known).contains(peer);
                let config = tls::server_config(&identity, Arc::new(admit));
                let accepting = tokio::spawn(accept(listener, config, port, most));
                Some(AbortOnDropHandle::new(accepting))
            }
            Err(error) => {
                warn!(%error, port, "no TCP port: members without UDP do not reach this node");
                None
            }
        };
        Ok(Self {
            identity,
            port,
            members,
            opened: Opened::default(),
            _listening: listening,
        })
    }

    /// The key that others are to pin.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    /// Takes the keys of those who may connect.
    pub(super) fn admit(&self, members: BTreeSet<Fingerprint>) {
        *lock(&self.members) = members;
    }

    /// The loopback addresses of the bridges that are open.
    pub(super) fn open(&self) -> BTreeMap<MemberId, SocketAddr> {
        lock(&self.opened).addresses()
    }

    /// Begins to open a bridge to a member that is cut off, at one of these addresses, unless there
    /// is one that may still help, or an attempt has just failed.
    pub(super) fn dial(&self, member: MemberId, key: Fingerprint, targets: Vec<SocketAddr>) {
        if !lock(&self.opened).begin(member, Instant::now()) {
            return;
        }
        let connector = TlsConnector::from(tls::client_config(&self.identity, key));
        let (opened, port) = (Arc::clone(&self.opened), self.port);
        tokio::spawn(async move {
            match open(&connector, &targets, port).await {
                Ok((stream, udp, address)) => {
                    info!(?member, %address, "datagrams to a member go over TLS");
                    let carrying = tokio::spawn(carry(stream, udp));
                    let task = carrying.abort_handle();
                    let before = lock(&opened).opened(member, address, task, Instant::now());
                    if let Some(before) = before {
                        before.abort();
                    }
                    let ended = carrying.await;
                    debug!(?member, ?ended, "a TLS connection to a member has ended");
                    lock(&opened).ended(member, address, Instant::now());
                }
                Err(error) => {
                    debug!(?member, %error, "no TLS connection to a member");
                    lock(&opened).refused(member, Instant::now());
                }
            }
        });
    }
}

async fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?,
    };
    notice_death(&listener)?;
    Ok(listener)
}

async fn accept(listener: TcpListener, config: Arc<ServerConfig>, port: u16, most: usize) {
    let limits = HandshakeLimits {
        timeout: PATIENCE,
        concurrent: HANDSHAKES_MAX,
    };
    let mut incoming = server::incoming(listener, config, limits, |failure| {
        debug!(%failure, "no TLS connection of a member");
    });
    let mut bridges = JoinSet::new();
    let mut places = Shares::<Fingerprint, AbortHandle>::new(most);
    loop {
        tokio::select! {
            Some(Ok(stream)) = incoming.next() => {
                let PeerIdentity {
                    remote, fingerprint, ..
                } = stream.peer();
                if !places.has_room() {
                    debug!(%remote, "too many TLS connections of members");
                    continue;
                }
                let bridge = bridges.spawn(async move {
                    let ended = serve(stream, port).await;
                    debug!(%remote, ?ended, "a TLS connection of a member has ended");
                });
                if let Some(oldest) = places.take(fingerprint, bridge) {
                    oldest.abort();
                }
            }
            Some(ended) = bridges.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                places.give_back(|bridge| bridge.id() == id);
            }
        }
    }
}

async fn serve(stream: TlsConn, port: u16) -> io::Result<()> {
    let (udp, _) = loopback(port).await?;
    carry(stream, udp).await
}

type Dialled = (
    tokio_rustls::client::TlsStream<TcpStream>,
    UdpSocket,
    SocketAddr,
);

/// Connects to the first of the addresses that answers. Each is tried a little after the one before
/// it, as in RFC 8305: one at which nothing answers keeps nobody waiting.
async fn open(connector: &TlsConnector, targets: &[SocketAddr], port: u16) -> io::Result<Dialled> {
    let mut attempts: FuturesUnordered<_> = (0..)
        .zip(targets)
        .map(|(number, target)| async move {
            tokio::time::sleep(STAGGER * number).await;
            timeout(PATIENCE, connect(connector, *target)).await?
        })
        .collect();
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address is known");
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(stream) => {
                let (udp, address) = loopback(port).await?;
                return Ok((stream, udp, address));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect(
    connector: &TlsConnector,
    target: SocketAddr,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    notice_death(&stream)?;
    // The key is pinned; the name is neither sent nor looked at.
    let name = ServerName::IpAddress(target.ip().into());
    connector.connect(name, stream).await
}

/// Has the system notice when the other end is gone without a word; connections that a listener
/// accepts have what it has.
fn notice_death(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &KEEPALIVE_SECONDS)?;
    let most = u32::try_from(UNACKNOWLEDGED.as_millis()).expect("some seconds");
    setsockopt(socket, sockopt::TcpUserTimeout, &most)?;
    Ok(())
}

/// A socket on the loopback that talks with the router.
async fn loopback(port: u16) -> io::Result<(UdpSocket, SocketAddr)> {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    udp.connect((Ipv4Addr::LOCALHOST, port)).await?;
    let address = udp.local_addr()?;
    Ok((udp, address))
}

/// Passes datagrams both ways until one end is closed.
async fn carry(stream: impl AsyncRead + AsyncWrite + Unpin, udp: UdpSocket) -> io::Result<()> {
    let codec = LengthDelimitedCodec::builder()
        .length_field_length(2)
        .max_frame_length(DATAGRAM_MAX)
        .new_codec();
    let (mut sink, mut frames) = Framed::new(stream, codec).split();
    let outwards = async {
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let mut length = udp.recv(&mut buffer).await?;
            // What waits goes along, up to as much as the codec keeps.
            loop {
                sink.feed(Bytes::copy_from_slice(&buffer[..length])).await?;
                match udp.try_recv(&mut buffer) {
                    Ok(next) => length = next,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            sink.flush().await?;
        }
    };
    let inwards = async {
        while let Some(frame) = frames.next().await {
            match udp.send(&frame?).await {
                Ok(_) => {}
                // The router's queue is full: datagrams may be lost.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(error);
                }
                Err(error) => debug!(%error, "a datagram was lost on the loopback"),
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = outwards => ended,
        ended = inwards => ended,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node: its bridges, and a socket in the place of its router.
    struct Node {
        bridges: Bridges,
        router: UdpSocket,
        address: SocketAddr,
    }

    async fn node() -> Node {
        node_for(ACCEPTED_MAX).await
    }

    /// A node to which others may open so many bridges.
    async fn node_for(most: usize) -> Node {
        let router = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = router.local_addr().unwrap();
        let bridges = Bridges::start_for(address.port(), most).await.unwrap();
        Node {
            bridges,
            router,
            address,
        }
    }

    async fn until<T>(mut question: impl FnMut() -> Option<T>) -> T {
        let asked = async {
            loop {
                if let Some(answer) = question() {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), asked).await.unwrap()
    }

    fn dial(from: &Node, to: &Node) {
        let key = to.bridges.fingerprint();
        from.bridges.dial(MemberId::OPERATOR, key, vec![to.address]);
    }

    #[tokio::test]
    async fn addresses_at_which_nothing_answers_keep_nobody_waiting() {
        let (a, b) = (node().await, node().await);
        b.bridges.admit([a.bridges.fingerprint()].into());
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        // One after the other they would take longer than `until` waits.
        let mut targets = vec![silent.local_addr().unwrap(); 7];
        targets.push(b.address);
        let key = b.bridges.fingerprint();
        a.bridges.dial(MemberId::OPERATOR, key, targets);
        until(|| (!a.bridges.open().is_empty()).then_some(())).await;
    }

    #[tokio::test]
    async fn datagrams_pass_both_ways_and_keep_their_bounds() {
        let (a, b) = (node().await, node().await);
        b.bridges.admit([a.bridges.fingerprint()].into());
        dial(&a, &b);
        let bridge = until(|| a.bridges.open().values().next().copied()).await;
        let mut buffer = vec![0; DATAGRAM_MAX];
        let mut back = None;
        for length in [1, 1400, 9000, 0, 32] {
            a.router.send_to(&vec![7; length], bridge).await.unwrap();
            let (received, from) = b.router.recv_from(&mut buffer).await.unwrap();
            assert_eq!(buffer[..received], vec![7; length]);
            back = Some(from);
        }
        b.router.send_to(b"and back", back.unwrap()).await.unwrap();
        let (received, from) = a.router.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..received], from), (&b"and back"[..], bridge));
        // When the far end goes, the bridge is no longer offered.
        drop(b);
        until(|| a.bridges.open().is_empty().then_some(())).await;
    }

    #[tokio::test]
    async fn strangers_and_impostors_are_refused() {
        let (a, b, c) = (node().await, node().await, node().await);
        let failed = |node: &Node| {
            let opened = lock(&node.bridges.opened);
            opened.has_failed(MemberId::OPERATOR).then_some(())
        };
        // Nobody has told b of a. In TLS 1.3 a learns that after its own part of the handshake.
        dial(&a, &b);
        until(|| failed(&a)).await;
        // c does not hold b's key.
        c.bridges.admit([a.bridges.fingerprint()].into());
        let other = node().await;
        other
            .bridges
            .dial(MemberId::OPERATOR, b.bridges.fingerprint(), vec![c.address]);
        until(|| failed(&other)).await;
        assert!(other.bridges.open().is_empty());
    }

    #[tokio::test]
    async fn neither_strangers_nor_a_member_keep_another_member_out() {
        let (a, b, c) = (node().await, node_for(2).await, node().await);
        b.bridges
            .admit([&a, &c].map(|node| node.bridges.fingerprint()).into());
        // From one address, and they never say who they are.
        let mut strangers = Vec::new();
        for _ in 0..=HANDSHAKES_MAX {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
            strangers.push(socket.connect(b.address).await.unwrap());
        }
        for number in 1..=3 {
            let key = b.bridges.fingerprint();
            a.bridges.dial(MemberId::site(number), key, vec![b.address]);
        }
        until(|| (!a.bridges.open().is_empty()).then_some(())).await;
        dial(&c, &b);
        let bridge = until(|| c.bridges.open().values().next().copied()).await;
        until(|| (a.bridges.open().len() == 1).then_some(())).await;
        c.router.send_to(b"still here", bridge).await.unwrap();
        let mut buffer = [0; 32];
        let (length, _) = b.router.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"still here");
    }
}
