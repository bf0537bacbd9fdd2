//! Routing and the source check, against a model that scans a list.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Instant;

use fed_mesh::{
    Addressee, Content, DropReason, Ipv6Prefix, MTU_MIN, Opened, Origin, PeerConfig, Protocol,
    PublicKey, Refusal, Router, Session, SetPeersError,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::node::{Node, Transmit};
use crate::packet::ipv6;

/// A protocol without secrets or handshakes: a datagram is the sender's key and the packet.
struct Plain(PublicKey);

struct PlainSession(PublicKey);

impl Protocol for Plain {
    type Session = PlainSession;

    fn public_key(&self) -> PublicKey {
        self.0
    }

    fn session(&self, _peer: PublicKey, _slot: u32, _now: Instant) -> PlainSession {
        PlainSession(self.0)
    }

    fn address(&self, _from: Origin, datagram: &[u8], _now: Instant) -> Result<Addressee, Refusal> {
        let key = datagram.first_chunk();
        key.map(|key| Addressee::Key(PublicKey::from_bytes(*key)))
            .ok_or(Refusal::Drop(DropReason::MalformedOuter))
    }
}

impl Session for PlainSession {
    fn is_ready(&self) -> bool {
        true
    }

    fn seal(&mut self, inner: &[u8], room: &mut [u8], _now: Instant) -> Option<usize> {
        let datagram = [self.0.as_bytes(), inner].concat();
        room[..datagram.len()].copy_from_slice(&datagram);
        Some(datagram.len())
    }

    fn open(
        &mut self,
        datagram: &[u8],
        room: &mut [u8],
        _now: Instant,
    ) -> Result<Opened, DropReason> {
        let inner = &datagram[32..];
        room[..inner.len()].copy_from_slice(inner);
        Ok(Opened {
            content: Content::Inner(inner.len()),
            completed: false,
        })
    }
}

const OWN: [u8; 32] = [0xff; 32];

fn key(peer: usize) -> PublicKey {
    PublicKey::from_bytes([u8::try_from(peer).unwrap(); 32])
}

fn endpoint(peer: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(peer).unwrap()], 51_820))
}

/// Addresses that differ in few places, so that prefixes nest and collide.
fn address() -> impl Strategy<Value = Ipv6Addr> {
    (0u16..3, 0u16..3, 0u16..4)
        .prop_map(|(site, node, host)| Ipv6Addr::new(0xfd00, 0, site, node, 0, 0, 0, host))
}

fn prefix() -> impl Strategy<Value = Ipv6Prefix> {
    let len = prop_oneof![
        Just(0u8),
        Just(16),
        Just(47),
        Just(48),
        Just(63),
        Just(64),
        Just(127),
        Just(128)
    ];
    (address(), len).prop_map(|(addr, len)| Ipv6Prefix::new(addr, len).unwrap())
}

/// Up to six peers; a prefix belongs to the first that claims it, as a router asks for.
fn peers() -> impl Strategy<Value = Vec<PeerConfig>> {
    vec(vec(prefix(), 0..4), 1..6).prop_map(|claims| {
        let mut taken = BTreeSet::new();
        let peers = claims.into_iter().enumerate().map(|(peer, mut prefixes)| {
            prefixes.retain(|prefix| taken.insert(*prefix));
            PeerConfig {
                public_key: key(peer),
                endpoints: vec![endpoint(peer)],
                allowed_ips: prefixes,
                keepalive: None,
            }
        });
        peers.collect()
    })
}

/// The model: the longest of all prefixes around the address.
fn owner(peers: &[PeerConfig], addr: Ipv6Addr) -> Option<usize> {
    let all = peers
        .iter()
        .enumerate()
        .flat_map(|(peer, config)| config.allowed_ips.iter().map(move |prefix| (prefix, peer)));
    all.filter(|(prefix, _)| prefix.contains(addr))
        .max_by_key(|(prefix, _)| prefix.len())
        .map(|(_, peer)| peer)
}

fn router(peers: &[PeerConfig], now: Instant) -> Node<Plain> {
    let mut router = Node::new(Router::with_protocol(
        Plain(PublicKey::from_bytes(OWN)),
        now,
    ));
    router.set_peers(peers.to_vec(), now).unwrap();
    router
}

proptest! {
    #[test]
    fn a_packet_goes_to_the_longest_prefix(
        peers in peers(), source in address(), destination in address(), payload: [u8; 9],
    ) {
        let now = Instant::now();
        let mut router = router(&peers, now);
        let packet = ipv6(source, destination, &payload);
        router.handle_inner(&packet, now);
        let expected = owner(&peers, destination).map(|peer| Transmit {
            to: endpoint(peer),
            payload: [&OWN[..], &packet].concat(),
        });
        let no_route = u64::from(expected.is_none());
        prop_assert_eq!(router.poll_transmit(), expected);
        prop_assert_eq!(router.poll_transmit(), None);
        prop_assert_eq!(router.drops().get(DropReason::NoRoute), no_route);
        prop_assert_eq!(router.poll_deliver(), None);
    }

    #[test]
    fn a_peer_may_send_only_from_its_own_addresses(
        peers in peers(), sender in 0usize..6, source in address(), destination in address(),
    ) {
        let now = Instant::now();
        let mut router = router(&peers, now);
        let packet = ipv6(source, destination, b"hello");
        let datagram = [&key(sender).as_bytes()[..], &packet].concat();
        router.handle_datagram(endpoint(sender), &datagram, now);
        let delivered = router.poll_deliver();
        match router.peers(now).get(sender) {
            None => {
                prop_assert_eq!(router.drops().get(DropReason::UnknownPeer), 1);
                prop_assert_eq!(delivered, None);
            }
            Some(status) if owner(&peers, source) == Some(sender) => {
                prop_assert_eq!(delivered, Some(packet));
                prop_assert_eq!(status.inner_received.packets, 1);
                prop_assert_eq!(status.drops.total(), 0);
            }
            Some(status) => {
                prop_assert_eq!(status.drops.get(DropReason::SourceNotAllowed), 1);
                prop_assert_eq!(status.inner_received.packets, 0);
                prop_assert_eq!(delivered, None);
            }
        }
        // Whatever the destination, nothing is sent on to another peer.
        prop_assert_eq!(router.poll_transmit(), None);
    }

    #[test]
    fn setting_the_same_peers_again_changes_nothing(peers in peers(), destination in address()) {
        let now = Instant::now();
        let mut router = router(&peers, now);
        router.handle_inner(&ipv6(destination, destination, b"once"), now);
        let before = router.peers(now);
        router.set_peers(peers.clone(), now).unwrap();
        prop_assert_eq!(router.peers(now), before);
    }

    #[test]
    fn a_new_set_of_peers_routes_as_if_it_were_the_first(
        first in peers(), second in peers(), destination in address(),
    ) {
        let now = Instant::now();
        let mut changed = router(&first, now);
        changed.set_peers(second.clone(), now).unwrap();
        let mut fresh = router(&second, now);
        let packet = ipv6(destination, destination, b"where to?");
        changed.handle_inner(&packet, now);
        fresh.handle_inner(&packet, now);
        prop_assert_eq!(changed.poll_transmit(), fresh.poll_transmit());
    }
}

#[test]
fn ambiguous_sets_are_refused_and_change_nothing() {
    let now = Instant::now();
    let config = |peer, prefix: &str| PeerConfig {
        public_key: key(peer),
        endpoints: vec![endpoint(peer)],
        allowed_ips: vec![prefix.parse().unwrap()],
        keepalive: None,
    };
    let mut router = router(&[config(1, "fd00:1::/64")], now);
    let before = router.peers(now);

    let overlap = vec![config(2, "fd00:2::/64"), config(3, "fd00:2::7/64")];
    let error = router.set_peers(overlap, now).unwrap_err();
    assert_eq!(
        error,
        SetPeersError::OverlappingAllowedIps {
            prefix: "fd00:2::/64".parse().unwrap(),
            first: key(2),
            second: key(3),
        }
    );
    assert!(error.to_string().contains("fd00:2::/64"), "{error}");

    let twice = vec![config(2, "fd00:2::/64"), config(2, "fd00:3::/64")];
    assert_eq!(
        router.set_peers(twice, now),
        Err(SetPeersError::DuplicatePeer { key: key(2) })
    );

    let mut alike = config(3, "fd00:3::/64");
    let mut bytes = *key(2).as_bytes();
    bytes[31] ^= 1;
    alike.public_key = PublicKey::from_bytes(bytes);
    let two = vec![config(2, "fd00:2::/64"), alike.clone()];
    assert_eq!(
        router.set_peers(two, now),
        Err(SetPeersError::AlikeKeys {
            first: key(2),
            second: alike.public_key
        })
    );

    let mut own = config(2, "fd00:2::/64");
    own.public_key = router.public_key();
    assert_eq!(
        router.set_peers(vec![own], now),
        Err(SetPeersError::OwnKey {
            key: router.public_key()
        })
    );

    let mut hasty = config(2, "fd00:2::/64");
    hasty.keepalive = Some(std::time::Duration::ZERO);
    assert!(matches!(
        router.set_peers(vec![hasty], now),
        Err(SetPeersError::KeepaliveTooShort { .. })
    ));
    assert_eq!(router.peers(now), before);
}

#[test]
fn packets_that_do_not_fit_are_counted() {
    let now = Instant::now();
    let mut router = router(
        &[PeerConfig {
            public_key: key(1),
            endpoints: Vec::new(),
            allowed_ips: vec!["::/0".parse().unwrap()],
            keepalive: None,
        }],
        now,
    );
    let (a, b) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    let too_big = ipv6(a, b, &[0; MTU_MIN - 39]);
    router.handle_inner(&too_big, now);
    assert_eq!(router.peers(now)[0].drops.get(DropReason::TooBig), 1);
    // Its sender is told, as if by the destination (ICMPv6 type 2).
    let answer = router.poll_deliver().unwrap();
    assert_eq!(answer[8..40], [b.octets(), a.octets()].concat());
    assert_eq!((answer[6], answer[40]), (58, 2));
    assert_eq!(router.poll_deliver(), None);
    router.handle_inner(&ipv6(a, b, &[0; MTU_MIN - 40]), now);
    assert_eq!(router.peers(now)[0].drops.get(DropReason::NoEndpoint), 1);
    router.handle_inner(&[0x45; 40], now);
    assert_eq!(router.drops().get(DropReason::MalformedInner), 1);
    assert_eq!(router.poll_transmit(), None);
}
