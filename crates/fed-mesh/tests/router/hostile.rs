//! Bytes from strangers and from peers that have gone mad: nothing panics, all is counted.

use fed_mesh::{
    Content, DropReason, Ipv6Prefix, Noise, PeerConfig, PrivateKey, Protocol as _, ROOM_MIN,
    Router, Session as _,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::node::Node;
use crate::packet::ipv6;
use crate::pair::{INNER, Pair};

/// Bytes, and now and then the head of a message with the length that its kind has.
fn datagram() -> impl Strategy<Value = Vec<u8>> {
    let any_bytes = vec(any::<u8>(), 0..300);
    let shaped = (
        prop_oneof![
            Just((1u8, 148usize)),
            Just((2, 92)),
            Just((3, 64)),
            Just((4, 80))
        ],
        vec(any::<u8>(), 148),
        prop_oneof![0u32..512, any::<u32>()],
        prop_oneof![any::<u64>(), Just(u64::MAX)],
    )
        .prop_map(|((kind, length), mut bytes, index, counter)| {
            bytes.truncate(length);
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            bytes[4..8].copy_from_slice(&index.to_le_bytes());
            bytes[8..16].copy_from_slice(&counter.to_le_bytes());
            bytes
        });
    prop_oneof![any_bytes, shaped]
}

#[test]
fn nothing_is_sent_to_port_0() {
    let mut pair = Pair::new(None);
    pair.inner(0, b"hello");
    let initiation = pair.transmits(0).remove(0);
    let alice = pair.outer[0];
    pair.outer[0].set_port(0);
    pair.receive(1, &initiation);
    assert_eq!(pair.transmits(1), Vec::<Vec<u8>>::new());
    let drops = pair.routers[1].drops();
    assert_eq!(drops.get(DropReason::MalformedOuter), 1);
    pair.outer[0] = alice;
    pair.receive(1, &initiation);
    pair.pump();
    assert_eq!(pair.delivered(1), [Pair::packet(0, b"hello")]);

    let mut carol = Node::new(Router::new(PrivateKey::generate(), pair.now));
    let [nowhere, somewhere] = ["192.0.2.1:0", "192.0.2.1:1"].map(|at| at.parse().unwrap());
    let peer = PeerConfig {
        public_key: PrivateKey::generate().public_key(),
        endpoints: vec![nowhere, somewhere],
        allowed_ips: vec![Ipv6Prefix::host(INNER[0])],
        keepalive: None,
    };
    carol.set_peers(vec![peer], pair.now).unwrap();
    let tried = std::iter::from_fn(|| carol.poll_transmit()).map(|transmit| transmit.to);
    assert_eq!(tried.collect::<Vec<_>>(), [somewhere]);
}

/// The drops that `node` has counted, with a peer or without.
fn drops(pair: &Pair, node: usize) -> u64 {
    pair.routers[node].drops().total() + pair.status(node).drops.total()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn strangers_are_counted_and_change_nothing(datagrams in vec(datagram(), 1..20)) {
        let mut pair = Pair::connected();
        let before = drops(&pair, 1);
        for datagram in &datagrams {
            pair.receive(1, datagram);
        }
        prop_assert_eq!(drops(&pair, 1) - before, datagrams.len() as u64);
        prop_assert_eq!(pair.delivered(1), Vec::<Vec<u8>>::new());
        prop_assert_eq!(pair.transmits(1), Vec::<Vec<u8>>::new());
        pair.inner(0, b"still there");
        pair.pump();
        prop_assert_eq!(pair.delivered(1), [Pair::packet(0, b"still there")]);
    }

    #[test]
    fn damaged_handshakes_do_not_harm(at: Index, bit in 0u8..8, cut: Index) {
        let mut pair = Pair::new(None);
        pair.inner(0, b"hello");
        let initiation = pair.transmits(0).remove(0);
        let mut damaged = initiation.clone();
        // The last 16 bytes are the second MAC, which counts only under load.
        damaged[at.index(initiation.len() - 16)] ^= 1 << bit;
        pair.receive(1, &damaged);
        pair.receive(1, &initiation[..cut.index(initiation.len())]);
        prop_assert_eq!(pair.transmits(1), Vec::<Vec<u8>>::new());
        pair.receive(1, &initiation);
        pair.pump();
        prop_assert_eq!(pair.delivered(1), [Pair::packet(0, b"hello")]);
    }

    #[test]
    fn any_bytes_from_the_tun_are_counted(packet in vec(any::<u8>(), 0..1500)) {
        let mut pair = Pair::connected();
        let now = pair.now;
        let before = drops(&pair, 0);
        pair.routers[0].handle_inner(&packet, now);
        prop_assert_eq!(drops(&pair, 0) - before, 1);
        let malformed = pair.routers[0].drops().get(DropReason::MalformedInner);
        prop_assert!(malformed == 1 || packet.first().is_some_and(|byte| byte >> 4 == 6));
    }

    #[test]
    fn a_peer_gone_mad_is_counted(payload in vec(any::<u8>(), 1..100), head in 0u8..16) {
        let now = std::time::Instant::now();
        let from = "192.0.2.1:1".parse().unwrap();
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let [mad, bob] = keys.each_ref().map(PrivateKey::public_key);
        let [mad_key, bob_key] = keys;
        let mut session = Noise::new(mad_key).session(bob, 0, now);
        let mut router = Node::new(Router::new(bob_key, now));
        let peer = PeerConfig {
            public_key: mad,
            endpoints: Vec::new(),
            allowed_ips: vec![Ipv6Prefix::host(INNER[0])],
            keepalive: None,
        };
        router.set_peers(vec![peer], now).unwrap();
        let initiation = session.initiate(now).unwrap();
        router.handle_datagram(from, &initiation, now);
        let response = router.poll_transmit().unwrap().payload;
        let opened = session.open(&response, &mut [0; ROOM_MIN], now).unwrap();
        prop_assert!(opened.completed && matches!(opened.content, Content::Reply(_)));

        let mut room = [0; 1000];
        let mut any_bytes = payload.clone();
        any_bytes[0] = head << 4 | payload[0] & 15;
        let whole = ipv6(INNER[0], INNER[1], &payload);
        let cut = whole[..whole.len() - 1].to_vec();
        let mut padded = whole.clone();
        padded.extend(&payload);
        for inner in [any_bytes, cut] {
            let length = session.seal(&inner, &mut room, now).unwrap();
            router.handle_datagram(from, &room[..length], now);
        }
        // Padding behind the packet is allowed, and taken off.
        let length = session.seal(&padded, &mut room, now).unwrap();
        router.handle_datagram(from, &room[..length], now);
        let status = router.peers(now).remove(0);
        prop_assert_eq!(status.drops.get(DropReason::MalformedDecrypted), 2);
        prop_assert_eq!(router.poll_deliver(), Some(whole));
        prop_assert_eq!(router.poll_deliver(), None);
        prop_assert_eq!(status.handshakes(), 1);
    }
}
