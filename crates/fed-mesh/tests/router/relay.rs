//! WireGuard between two routers that reach a third one, and not each other.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use fed_mesh::{
    ByPath, DropReason, Event, HANDSHAKES_PER_SECOND, Ipv6Prefix, KEEPALIVE, Path, PathKind,
    PathTraffic, PeerConfig, PeerStatus, PrivateKey, PublicKey, RELAY_BURST, Router,
};

use crate::node::{Node, Transmit};
use crate::packet::ipv6;

const ALICE: usize = 0;
const BOB: usize = 1;
const RELAY: usize = 2;

/// Bytes that a frame adds.
const HEADER: usize = 16;

struct Triangle {
    routers: Vec<Node>,
    keys: Vec<PublicKey>,
    now: Instant,
    /// Between which nothing passes, in both directions.
    cut: BTreeSet<(usize, usize)>,
    /// From which nothing passes to the other.
    dead: BTreeSet<(usize, usize)>,
    /// All datagrams that arrived at the relay.
    at_relay: Vec<Vec<u8>>,
}

fn outer(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(node + 1).unwrap()], 51_820))
}

fn inner(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, u16::try_from(node).unwrap(), 0, 0, 0, 1)
}

fn packet(from: usize, to: usize, payload: &[u8]) -> Vec<u8> {
    ipv6(inner(from), inner(to), payload)
}

impl Triangle {
    /// Alice and Bob cannot reach each other.
    fn new() -> Self {
        let now = Instant::now();
        let keys: Vec<_> = (0..3).map(|_| PrivateKey::generate()).collect();
        let mut triangle = Self {
            keys: keys.iter().map(PrivateKey::public_key).collect(),
            routers: Vec::new(),
            now,
            cut: BTreeSet::from([(ALICE, BOB)]),
            dead: BTreeSet::new(),
            at_relay: Vec::new(),
        };
        for (node, key) in keys.into_iter().enumerate() {
            let mut router = Node::new(Router::new(key, now));
            let others = (0..3).filter(|other| *other != node);
            let peers = others.map(|other| PeerConfig {
                public_key: triangle.keys[other],
                endpoints: vec![outer(other)],
                allowed_ips: vec![Ipv6Prefix::host(inner(other))],
                keepalive: Some(KEEPALIVE),
            });
            router.set_peers(peers.collect(), now).unwrap();
            triangle.routers.push(router);
        }
        triangle
    }

    /// Alice and Bob, by way of the relay.
    fn connected() -> Self {
        let mut triangle = Self::new();
        triangle.run(Duration::from_secs(3));
        for (node, other) in [(ALICE, BOB), (BOB, ALICE)] {
            let path = Path::Relay(triangle.keys[RELAY]);
            assert_eq!(triangle.path(node, other), Some(path));
        }
        triangle
    }

    /// Lets so much time pass in small steps.
    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.pump();
            if self.now >= end {
                return;
            }
            self.now += Duration::from_millis(100);
            for router in &mut self.routers {
                router.handle_timeout(self.now);
            }
        }
    }

    fn pump(&mut self) {
        let mut quiet = false;
        while !quiet {
            quiet = true;
            for node in 0..3 {
                while let Some(transmit) = self.routers[node].poll_transmit() {
                    quiet = false;
                    self.carry(node, &transmit);
                }
            }
        }
    }

    fn carry(&mut self, from: usize, transmit: &Transmit) {
        let to = (0..3).find(|node| outer(*node) == transmit.to).unwrap();
        let cut = self.cut.contains(&(from.min(to), from.max(to)));
        if cut || self.dead.contains(&(from, to)) {
            return;
        }
        if to == RELAY {
            self.at_relay.push(transmit.payload.clone());
        }
        self.routers[to].handle_datagram(outer(from), &transmit.payload, self.now);
    }

    fn status(&self, node: usize, other: usize) -> PeerStatus {
        let mut peers = self.routers[node].peers(self.now).into_iter();
        peers
            .find(|peer| peer.public_key == self.keys[other])
            .unwrap()
    }

    fn path(&self, node: usize, other: usize) -> Option<Path> {
        self.status(node, other).path
    }

    fn counts(&self, node: usize, other: usize) -> ByPath {
        self.status(node, other).by_path
    }

    fn send(&mut self, from: usize, to: usize, payload: &[u8]) {
        self.routers[from].handle_inner(&packet(from, to, payload), self.now);
    }

    fn delivered(&mut self, node: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.routers[node].poll_deliver()).collect()
    }
}

#[test]
fn what_a_relay_passes_on_it_cannot_read_and_does_not_keep() {
    let mut triangle = Triangle::connected();
    triangle.at_relay.clear();
    let secret = [0x5a; 600];
    triangle.send(ALICE, BOB, &secret);
    triangle.pump();
    assert_eq!(triangle.delivered(BOB), [packet(ALICE, BOB, &secret)]);
    assert_eq!(triangle.delivered(RELAY), Vec::<Vec<u8>>::new());
    let [frame]: [Vec<u8>; 1] = std::mem::take(&mut triangle.at_relay).try_into().unwrap();
    assert_eq!(frame.len(), HEADER + 32 + 40 + secret.len());
    assert!(!frame.windows(8).any(|window| window == [0x5a; 8]));
    let relayed = triangle.status(RELAY, ALICE).relayed;
    assert!(relayed.bytes >= frame.len() as u64);
    triangle.send(BOB, ALICE, b"back");
    triangle.pump();
    assert_eq!(triangle.delivered(ALICE), [packet(BOB, ALICE, b"back")]);
}

#[test]
fn where_one_direction_is_dead_a_relay_is_found() {
    for senders in [&[][..], &[ALICE], &[BOB], &[ALICE, BOB]] {
        let mut triangle = Triangle::new();
        triangle.cut.clear();
        triangle.dead.insert((ALICE, BOB));
        for _ in 0..40 {
            for sender in senders {
                let other = ALICE + BOB - sender;
                triangle.send(*sender, other, b"to the other");
            }
            triangle.run(Duration::from_millis(100));
        }
        for (node, other) in [(ALICE, BOB), (BOB, ALICE)] {
            let connected = triangle.status(node, other).connected;
            assert!(connected, "{node}, senders {senders:?}");
        }
        triangle.delivered(BOB);
        triangle.send(ALICE, BOB, b"arrives");
        triangle.pump();
        let delivered = triangle.delivered(BOB);
        assert_eq!(delivered, [packet(ALICE, BOB, b"arrives")], "{senders:?}");
    }
}

#[test]
fn what_goes_by_each_kind_of_path_is_counted_apart() {
    let mut triangle = Triangle::connected();
    for direct_is_open in [false, true] {
        if direct_is_open {
            triangle.cut.clear();
            triangle.run(KEEPALIVE + Duration::from_secs(1));
        }
        for (node, other) in [(ALICE, BOB), (BOB, ALICE)] {
            let (here, there) = (triangle.counts(node, other), triangle.counts(other, node));
            let relayed = here.get(PathKind::Relayed);
            assert!(relayed.sent.packets > 0 && relayed.sent.bytes > relayed.sent.packets);
            assert_eq!(relayed.sent, there.get(PathKind::Relayed).received);
            assert!(relayed.handshakes > 0);
            let direct = here.get(PathKind::Direct);
            assert!(direct.sent.packets > 0, "it is tried");
            assert_eq!(direct.received.packets > 0, direct_is_open);
            assert_eq!(here.get(PathKind::Bridged), PathTraffic::default());
        }
    }
}

#[test]
fn a_frame_in_the_name_of_nobody_is_not_looked_into() {
    let mut triangle = Triangle::connected();
    triangle.send(ALICE, BOB, b"to Bob");
    let mut frame = triangle.routers[ALICE].poll_transmit().unwrap().payload;
    frame[10] ^= 1;
    let now = triangle.now;
    triangle.routers[BOB].handle_datagram(outer(RELAY), &frame, now);
    assert_eq!(
        triangle.routers[BOB].drops().get(DropReason::UnknownPeer),
        1
    );
    assert!(triangle.delivered(BOB).is_empty());
}

#[test]
fn a_direct_path_is_taken_when_it_opens_and_the_relay_when_it_dies() {
    let mut triangle = Triangle::connected();
    triangle.cut.clear();
    triangle.run(KEEPALIVE + Duration::from_secs(1));
    assert_eq!(triangle.path(ALICE, BOB), Some(Path::Udp(outer(BOB))));
    assert_eq!(triangle.path(BOB, ALICE), Some(Path::Udp(outer(ALICE))));
    while triangle.routers[ALICE].poll_event().is_some() {}
    triangle.cut.insert((ALICE, BOB));
    triangle.send(ALICE, BOB, b"lost");
    triangle.run(Duration::from_secs(3));
    let (peer, relay) = (triangle.keys[BOB], triangle.keys[RELAY]);
    let events = std::iter::from_fn(|| triangle.routers[ALICE].poll_event());
    let moved = Event::PathChanged {
        peer,
        from: Some(Path::Udp(outer(BOB))),
        to: Path::Relay(relay),
    };
    assert_eq!(events.collect::<Vec<_>>(), [moved]);
    triangle.delivered(BOB);
    triangle.send(ALICE, BOB, b"arrives");
    triangle.pump();
    // Bob follows Alice.
    triangle.send(BOB, ALICE, b"arrives");
    triangle.pump();
    assert_eq!(triangle.delivered(BOB), [packet(ALICE, BOB, b"arrives")]);
    assert_eq!(triangle.delivered(ALICE), [packet(BOB, ALICE, b"arrives")]);
}

#[test]
fn strangers_are_relayed_nothing_and_members_no_more_than_their_share() {
    let mut triangle = Triangle::connected();
    triangle.send(ALICE, BOB, &[1; 1000]);
    let frame = triangle.routers[ALICE].poll_transmit().unwrap().payload;
    let now = triangle.now;
    let relay = &mut triangle.routers[RELAY];
    let refused = |relay: &Node| relay.drops().get(DropReason::RelayRefused);
    let before = refused(relay);
    // From elsewhere; from Bob, in Alice's name; to one that nobody knows; and cut short.
    relay.handle_datagram("198.51.100.1:1".parse().unwrap(), &frame, now);
    relay.handle_datagram(outer(BOB), &frame, now);
    let mut to_nobody = frame.clone();
    to_nobody[4] ^= 1;
    relay.handle_datagram(outer(ALICE), &to_nobody, now);
    assert_eq!(refused(relay) - before, 3);
    relay.handle_datagram(outer(ALICE), &frame[..HEADER], now);
    assert_eq!(relay.drops().get(DropReason::MalformedOuter), 1);
    assert_eq!(relay.poll_transmit(), None);

    relay.handle_datagram(outer(ALICE), &frame, now);
    let passed = relay.poll_transmit().unwrap();
    assert_eq!((passed.to, &passed.payload), (outer(BOB), &frame));
    let mut bytes = 0;
    while relay.drops().get(DropReason::RelayBusy) == 0 {
        relay.handle_datagram(outer(ALICE), &frame, now);
        bytes += frame.len() as u64;
        assert!(bytes <= RELAY_BURST + 2 * frame.len() as u64);
        while relay.poll_transmit().is_some() {}
    }
}

#[test]
fn a_router_that_sends_from_two_addresses_is_relayed_for_from_both() {
    let mut triangle = Triangle::connected();
    let elsewhere: SocketAddr = "[2001:db8::1]:51820".parse().unwrap();
    triangle.send(ALICE, RELAY, b"from here");
    let datagram = triangle.routers[ALICE].poll_transmit().unwrap().payload;
    let now = triangle.now;
    triangle.routers[RELAY].handle_datagram(elsewhere, &datagram, now);
    while triangle.routers[RELAY].poll_transmit().is_some() {}
    for from in [elsewhere, outer(ALICE)] {
        triangle.send(ALICE, BOB, b"to Bob");
        let frame = triangle.routers[ALICE].poll_transmit().unwrap().payload;
        let now = triangle.now;
        triangle.routers[RELAY].handle_datagram(from, &frame, now);
        assert_eq!(
            triangle.routers[RELAY].poll_transmit().unwrap().to,
            outer(BOB)
        );
    }
}

#[test]
fn a_router_that_sends_from_another_port_each_time_is_not_heard_of_at_each() {
    let mut triangle = Triangle::connected();
    let port = |number: u16| SocketAddr::from(([198, 51, 100, 7], number));
    let mut frame = vec![0x52, 0, 0, 0];
    frame.extend(&triangle.keys[BOB].as_bytes()[..6]);
    frame.extend(&triangle.keys[ALICE].as_bytes()[..6]);
    frame.extend([4; 100]);
    let mut ports = 1..;
    let mut passed = |triangle: &mut Triangle| {
        let ports = (&mut ports).take(100).filter(|number| {
            let now = triangle.now;
            triangle.routers[ALICE].handle_inner(&packet(ALICE, RELAY, b"from there"), now);
            let datagram = triangle.routers[ALICE].poll_transmit().unwrap();
            let relay = &mut triangle.routers[RELAY];
            relay.handle_datagram(port(*number), &datagram.payload, now);
            while relay.poll_transmit().is_some() {}
            relay.handle_datagram(port(*number), &frame, now);
            relay.poll_transmit().is_some()
        });
        ports.collect::<Vec<u16>>()
    };
    // Four addresses in five seconds, with the one that the relay knew.
    assert_eq!(passed(&mut triangle), [1, 2, 3]);
    triangle.now += Duration::from_secs(5);
    assert_eq!(passed(&mut triangle), [101, 102, 103, 104]);
}

#[test]
fn a_flooded_router_asks_for_cookies_by_way_of_the_relay_too() {
    let mut triangle = Triangle::new();
    // The relay knows both before Alice calls Bob by way of it.
    triangle.pump();
    triangle.now += Duration::from_millis(500);
    let now = triangle.now;
    triangle.routers[ALICE].handle_timeout(now);
    let transmits = std::iter::from_fn(|| triangle.routers[ALICE].poll_transmit());
    let frame = transmits
        .map(|transmit| transmit.payload)
        .find(|payload| payload.len() == HEADER + 148)
        .expect("a call by way of the relay");
    let asked = (0..=HANDSHAKES_PER_SECOND).find_map(|_| {
        triangle.routers[BOB].handle_datagram(outer(RELAY), &frame, now);
        let replies = std::iter::from_fn(|| triangle.routers[BOB].poll_transmit());
        replies
            .into_iter()
            .find(|reply| reply.payload.len() == HEADER + 64)
    });
    let cookie = asked.expect("the limit is never reached");
    assert_eq!(cookie.to, outer(RELAY));
    triangle.routers[RELAY].handle_datagram(outer(BOB), &cookie.payload, now);
    let passed = triangle.routers[RELAY].poll_transmit().unwrap();
    assert_eq!(passed.to, outer(ALICE));
    triangle.routers[ALICE].handle_datagram(outer(RELAY), &passed.payload, now);
    let drops: u64 = triangle.routers[ALICE].drops().total();
    assert_eq!(drops, 0);
}

#[test]
fn what_is_dropped_for_want_of_the_relay_does_not_count_as_sent() {
    let mut triangle = Triangle::connected();
    let sent = triangle.status(ALICE, BOB).inner_sent;
    let bob = PeerConfig {
        public_key: triangle.keys[BOB],
        endpoints: vec![outer(BOB)],
        allowed_ips: vec![Ipv6Prefix::host(inner(BOB))],
        keepalive: Some(KEEPALIVE),
    };
    // The relay is no member any more.
    triangle.routers[ALICE]
        .set_peers(vec![bob], triangle.now)
        .unwrap();
    triangle.send(ALICE, BOB, b"nowhere to go");
    let status = triangle.status(ALICE, BOB);
    assert!(status.drops.get(DropReason::NoRelay) > 0);
    assert_eq!(status.inner_sent, sent);
}
