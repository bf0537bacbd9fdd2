//! What is done with bytes from strangers and peers, for the fuzz targets in `fuzz/`.
//!
//! An input is a row of pieces, each a length of two bytes (little-endian) and so many bytes.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use crate::control::Control;
use crate::frame::{Frame, RouterId};
use crate::packet::addresses;
use crate::{
    Addressee, Content, DropReason, Ipv6Prefix, MTU_MIN, Opened, Origin, Output, PeerConfig,
    PrivateKey, Protocol, PublicKey, Refusal, Router, Session,
};

/// The peer's address; all others of its /64 are its own too.
const PEER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1);

/// The router without cryptography, and its peers in [`frames`]: keys of bytes that are all alike.
const OWN: u8 = 1;
const MEMBERS: [u8; 3] = [2, 3, 4];

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
    let mut router = Router::with_protocol(Bare, now);
    let mut out = Output::default();
    add(&mut router, key(2), now, &mut out);
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

/// Datagrams into a router that three peers reach straight, without cryptography: the first byte of
/// a piece says who sends it, one of them or a stranger.
///
/// # Panics
/// Something is passed on that should not be, elsewhere than it should, or changed.
pub fn frames(input: &[u8], now: Instant) {
    let mut router = Router::with_protocol(Bare, now);
    let mut out = Output::default();
    let peers = MEMBERS.map(|number| PeerConfig {
        public_key: key(number),
        endpoints: vec![outer(number)],
        allowed_ips: vec![Ipv6Prefix::host(inner(number))],
        keepalive: None,
    });
    router
        .set_peers(peers.into(), now, &mut out)
        .expect("three peers");
    for number in MEMBERS {
        router.handle_datagram(outer(number), &greeting(number), now, &mut out);
    }
    for piece in pieces(input) {
        let Some((sender, datagram)) = piece.split_first() else {
            continue;
        };
        let sender = MEMBERS[0] + sender % 4;
        out.clear();
        router.handle_datagram(outer(sender), datagram, now, &mut out);
        passed_on(sender, datagram, &out);
    }
}

/// Looks at what a router has made of a datagram from a peer, or the stranger behind the last.
fn passed_on(sender: u8, datagram: &[u8], out: &Output) {
    let frame = Frame::read(datagram).filter(|frame| frame.to != key(OWN).into());
    let Some(frame) = frame else {
        for answer in out.trains(1, 0) {
            assert_eq!(answer.to, outer(sender));
            let inner = Frame::read(answer.bytes).map_or(answer.bytes, |frame| frame.message);
            is_short_control(inner, datagram.len());
        }
        for packet in out.packets() {
            let source = addresses(packet).map(|ends| ends.source);
            assert!(MEMBERS.iter().any(|number| source == Some(inner(*number))));
        }
        return;
    };
    assert_eq!(out.packets().len(), 0, "it is not for this router");
    let id = |number: &&u8| RouterId::from(key(**number));
    let to = MEMBERS.iter().find(|number| id(number) == frame.to);
    let from = MEMBERS.iter().find(|number| id(number) == frame.from);
    let sent: Vec<_> = out.trains(1, 0).map(|sent| (sent.to, sent.bytes)).collect();
    match (to, from) {
        (Some(to), Some(from)) if *from == sender && to != from => {
            assert_eq!(sent, [(outer(*to), datagram)]);
        }
        _ => assert_eq!(sent, []),
    }
}

/// An inner packet of a peer, by which it is heard.
fn greeting(number: u8) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[8..24].copy_from_slice(&inner(number).octets());
    packet[24..].copy_from_slice(&inner(0).octets());
    packet
}

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}

fn outer(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51_820))
}

fn inner(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, number.into(), 0, 0, 0, 1)
}

fn from_peer(packet: &[u8], out: &Output) {
    let own = addresses(packet).filter(|ends| PEER.segments()[..4] == ends.source.segments()[..4]);
    let delivered: Vec<_> = out.packets().collect();
    let expected: Vec<_> = own.iter().map(|_| packet).collect();
    assert_eq!(delivered, expected);
    for answer in out.trains(1, 0) {
        is_short_control(answer.bytes, packet.len());
    }
}

/// Only pings and probes are answered, by no more than came; and another path may be probed.
fn is_short_control(answer: &[u8], came: usize) {
    let control = Control::read(answer).expect("a control message");
    let most = match control {
        Control::Pong(_) => came,
        Control::Ping(_) | Control::Probe(_) => MTU_MIN,
    };
    assert!(answer.len() <= most, "{} after {came}", answer.len());
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
    outer(2)
}

/// A protocol without secrets: a datagram is a packet, of the peer that a relay names, or of the one
/// whose place among the addresses of [`frames`] it came from.
struct Bare;

impl Protocol for Bare {
    type Session = Self;

    fn public_key(&self) -> PublicKey {
        key(OWN)
    }

    fn session(&self, _peer: PublicKey, _slot: u32, _now: Instant) -> Self {
        Self
    }

    fn address(&self, from: Origin, _datagram: &[u8], _now: Instant) -> Result<Addressee, Refusal> {
        let place = match from.hop.ip() {
            IpAddr::V4(hop) => hop.octets()[3],
            IpAddr::V6(_) => 0,
        };
        Ok(Addressee::Key(from.sender.unwrap_or(key(place))))
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
