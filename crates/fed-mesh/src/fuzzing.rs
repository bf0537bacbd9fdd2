//! What is done with bytes from strangers and peers, for the fuzz targets in `fuzz/`.
//!
//! An input is a row of pieces, each a length of two bytes (little-endian) and so many bytes.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Instant;

use crate::packet::addresses;
use crate::{
    Addressee, Content, DropReason, Ipv6Prefix, MTU_MIN, Opened, Origin, Output, PeerConfig,
    PrivateKey, Protocol, PublicKey, Refusal, Router, Session, control,
};

/// The peer's address; all others of its /64 are its own too.
const PEER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1);

/// The secret keys of the router and of its one peer, so that a corpus can hold real handshakes.
const ROUTER_KEY: [u8; 32] = [1; 32];
const PEER_KEY: [u8; 32] = [2; 32];

/// The pieces of an input; what is left behind the last whole one is a piece too.
pub fn pieces(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = input.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        input = rest;
        Some(piece)
    })
}

/// Datagrams from the network, into a router that speaks WireGuard.
///
/// # Panics
/// The router answers or delivers what it should not, or loses count.
pub fn datagrams(input: &[u8], now: Instant) {
    let peer = PrivateKey::from_bytes(PEER_KEY).public_key();
    let mut router = Router::new(PrivateKey::from_bytes(ROUTER_KEY), now);
    let mut out = Output::default();
    add(&mut router, peer, now, &mut out);
    let mut count = 0;
    for datagram in pieces(input) {
        router.handle_datagram(endpoint(), datagram, now, &mut out);
        count += 1;
    }
    let dropped = router.drops().total() + router.peers(now)[0].drops.total();
    let answered = out.trains(1, 0).count();
    assert_eq!(out.packets().len(), 0, "there is no session");
    // A question for a cookie is a drop and an answer.
    assert!(dropped + answered as u64 >= count, "{dropped} dropped");
    assert!(dropped <= count && answered as u64 <= count);
}

/// Packets on either side of a router without cryptography: a piece that begins with an even byte
/// comes decrypted from the peer, another from the TUN.
///
/// # Panics
/// Something passes that should not, or does not that should.
pub fn packets(input: &[u8], now: Instant) {
    let key = PublicKey::from_bytes([2; 32]);
    let mut router = Router::with_protocol(Bare, now);
    let mut out = Output::default();
    add(&mut router, key, now, &mut out);
    for piece in pieces(input) {
        let Some((side, packet)) = piece.split_first() else {
            continue;
        };
        out.clear();
        if side % 2 == 0 {
            router.handle_datagram(endpoint(), packet, now, &mut out);
            from_peer(packet, &out);
        } else {
            router.handle_inner(packet, now, &mut out);
            from_tun(packet, &out);
        }
    }
}

fn from_peer(packet: &[u8], out: &Output) {
    let own = addresses(packet).filter(|ends| PEER.segments()[..4] == ends.source.segments()[..4]);
    let delivered: Vec<_> = out.packets().collect();
    let expected: Vec<_> = own.iter().map(|_| packet).collect();
    assert_eq!(delivered, expected);
    for answer in out.trains(1, 0) {
        assert_eq!(
            answer.bytes.len(),
            control::LENGTH,
            "only pings are answered"
        );
    }
}

fn from_tun(packet: &[u8], out: &Output) {
    for sent in out.trains(1, 0) {
        assert_eq!(sent.bytes, packet);
        assert!(packet.len() <= MTU_MIN);
    }
    for answer in out.packets() {
        assert!(packet.len() > MTU_MIN && answer.len() <= MTU_MIN);
        assert!(addresses(answer).is_some());
    }
}

fn add<P: Protocol>(router: &mut Router<P>, key: PublicKey, now: Instant, out: &mut Output) {
    let peer = PeerConfig {
        public_key: key,
        endpoints: vec![endpoint()],
        allowed_ips: vec![Ipv6Prefix::new(PEER, 64).expect("a length below 128")],
        keepalive: None,
    };
    router.set_peers(vec![peer], now, out).expect("one peer");
    out.clear();
}

fn endpoint() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 51_820))
}

/// A protocol without secrets: a datagram is a packet, always of the one peer.
struct Bare;

impl Protocol for Bare {
    type Session = Self;

    fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes([1; 32])
    }

    fn session(&self, _peer: PublicKey, _slot: u32, _now: Instant) -> Self {
        Self
    }

    fn address(
        &self,
        _from: Origin,
        _datagram: &[u8],
        _now: Instant,
    ) -> Result<Addressee, Refusal> {
        Ok(Addressee::Slot(0))
    }
}

impl Session for Bare {
    fn is_ready(&self) -> bool {
        true
    }

    fn seal(&mut self, inner: &[u8], room: &mut [u8], _now: Instant) -> Option<usize> {
        room[..inner.len()].copy_from_slice(inner);
        Some(inner.len())
    }

    fn open(
        &mut self,
        datagram: &[u8],
        room: &mut [u8],
        _now: Instant,
    ) -> Result<Opened, DropReason> {
        room[..datagram.len()].copy_from_slice(datagram);
        Ok(Opened {
            content: Content::Inner(datagram.len()),
            completed: false,
        })
    }
}
