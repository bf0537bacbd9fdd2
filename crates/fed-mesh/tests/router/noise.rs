//! WireGuard between two routers: handshakes, roaming, replay, tampering, keepalives.

use std::net::SocketAddr;
use std::time::Duration;

use fed_mesh::{DropReason, Event, KEEPALIVE, Path, QUEUE_PACKETS, SILENT_AFTER, TimeoutReason};

use crate::packet::ipv6;
use crate::pair::{INNER, Pair};
use crate::stock::Stock;

#[test]
fn packets_wait_for_the_handshake_and_keep_their_order() {
    let mut pair = Pair::new(None);
    let payloads: Vec<[u8; 2]> = (0..100u16).map(u16::to_be_bytes).collect();
    for payload in &payloads {
        pair.inner(0, payload);
    }
    assert_eq!(pair.status(0).queued, 100);
    assert_eq!(pair.status(0).inner_sent.packets, 0);
    pair.pump();
    let expected: Vec<_> = payloads.iter().map(|p| Pair::packet(0, p)).collect();
    assert_eq!(pair.delivered(1), expected);
    assert_eq!(pair.delivered(0), Vec::<Vec<u8>>::new());
    for node in [0, 1] {
        let status = pair.status(node);
        assert!(status.connected);
        assert_eq!(
            (status.handshakes(), status.queued, status.drops.total()),
            (1, 0, 0)
        );
        let completed = Event::HandshakeCompleted {
            peer: pair.routers[1 - node].public_key(),
            path: Path::Udp(pair.outer[1 - node]),
        };
        assert_eq!(pair.events(node).last(), Some(&completed));
        assert_eq!(status.path, Some(Path::Udp(pair.outer[1 - node])));
    }
    let (alice, bob) = (pair.status(0), pair.status(1));
    assert_eq!(
        (alice.inner_sent.packets, alice.inner_sent.bytes),
        (100, 4200)
    );
    assert_eq!(alice.inner_sent, bob.inner_received);
    // Each has asked whether the path works, and has answered.
    let asked = 2 * (52 + 32);
    // The initiation of 148 bytes, the keepalive of 32, and 32 around each packet.
    assert_eq!(alice.sent_bytes(), 148 + 32 + 100 * 74 + asked);
    assert_eq!(alice.sent_bytes(), bob.received_bytes());
    // The response.
    assert_eq!(bob.sent_bytes(), 92 + asked);
    assert_eq!(bob.sent_bytes(), alice.received_bytes());
    assert_eq!(alice.rtt, Some(Duration::ZERO));
}

#[test]
fn the_queue_is_bounded_and_drops_the_oldest() {
    let mut pair = Pair::new(None);
    for number in 0..QUEUE_PACKETS + 3 {
        pair.inner(0, &number.to_be_bytes());
    }
    assert_eq!(pair.status(0).drops.get(DropReason::QueueFull), 3);
    pair.pump();
    let delivered = pair.delivered(1);
    assert_eq!(delivered.len(), QUEUE_PACKETS);
    assert_eq!(delivered[0], Pair::packet(0, &3usize.to_be_bytes()));
}

#[test]
fn both_ends_may_call_at_once() {
    let mut pair = Pair::new(Some(KEEPALIVE));
    let calls = [pair.transmits(0), pair.transmits(1)];
    assert_eq!(calls.each_ref().map(Vec::len), [1, 1]);
    pair.inner(0, b"from alice");
    pair.inner(1, b"from bob");
    pair.receive(1, &calls[0][0]);
    pair.receive(0, &calls[1][0]);
    pair.pump();
    assert_eq!(pair.delivered(0), [Pair::packet(1, b"from bob")]);
    assert_eq!(pair.delivered(1), [Pair::packet(0, b"from alice")]);
}

#[test]
fn a_tampered_datagram_is_refused_wherever_it_is_touched() {
    let mut pair = Pair::connected();
    pair.inner(0, b"payload");
    let [datagram]: [Vec<u8>; 1] = pair.transmits(0).try_into().unwrap();
    for at in 0..datagram.len() {
        let mut tampered = datagram.clone();
        tampered[at] ^= 0x40;
        pair.receive(1, &tampered);
        assert_eq!(pair.delivered(1), Vec::<Vec<u8>>::new(), "byte {at}");
    }
    let dropped = pair.status(1).drops.total() + pair.routers[1].drops().total();
    assert_eq!(dropped, datagram.len() as u64);
    pair.receive(1, &datagram);
    assert_eq!(pair.delivered(1), [Pair::packet(0, b"payload")]);
    assert_eq!(pair.transmits(1), Vec::<Vec<u8>>::new());
}

#[test]
fn replays_are_refused() {
    let mut pair = Pair::new(None);
    pair.inner(0, b"once");
    let initiation = pair.transmits(0).remove(0);
    pair.receive(1, &initiation);
    pair.receive(1, &initiation);
    assert_eq!(pair.status(1).drops.get(DropReason::HandshakeRefused), 1);
    let response = pair.transmits(1).remove(0);
    pair.receive(0, &response);
    pair.receive(0, &response);
    assert_eq!(pair.status(0).drops.get(DropReason::HandshakeRefused), 1);
    let datagrams = pair.transmits(0);
    for datagram in &datagrams {
        pair.receive(1, datagram);
        pair.receive(1, datagram);
    }
    let replayed = pair.status(1).drops.get(DropReason::Replayed);
    assert_eq!(replayed, datagrams.len() as u64);
    assert_eq!(pair.delivered(1), [Pair::packet(0, b"once")]);
    assert_eq!(pair.status(1).handshakes(), 1);
}

#[test]
fn a_peer_that_moves_is_followed() {
    let mut pair = Pair::connected();
    let before = pair.outer[0];
    // As a dual-stack socket shows an IPv4 sender.
    pair.outer[0] = "[::ffff:198.51.100.7]:4000".parse().unwrap();
    pair.inner(0, b"I have moved");
    pair.pump();
    let to = "198.51.100.7:4000".parse().unwrap();
    let peer = pair.routers[0].public_key();
    let moved = Event::PathChanged {
        peer,
        from: Some(Path::Udp(before)),
        to: Path::Udp(to),
    };
    assert_eq!(pair.events(1), [moved]);
    pair.inner(1, b"so I see");
    assert_eq!(pair.routers[1].poll_transmit().unwrap().to, to);
}

#[test]
fn who_sends_from_another_port_each_time_moves_the_path_once_in_five_seconds() {
    for mover in [0, 1] {
        let mut pair = Pair::connected();
        let port = |number: u16| SocketAddr::from(([198, 51, 100, 7], 1000 + number));
        for second in 0..5 {
            for number in 0..100 {
                // New ports at first, and three in turn then.
                let number = if second < 3 {
                    second * 100 + number
                } else {
                    number % 3
                };
                pair.outer[mover] = port(number);
                pair.inner(mover, b"catch me");
                pair.pump();
            }
            let peer = &pair.status(1 - mover);
            assert_eq!(peer.path, Some(Path::Udp(port(0))), "in second {second}");
            pair.now += Duration::from_secs(1);
        }
        assert_eq!(pair.delivered(1 - mover).len(), 500);
        assert_eq!(path_changes(&mut pair, 1 - mover).len(), 1);
        pair.inner(mover, b"caught");
        pair.pump();
        let peer = pair.status(1 - mover);
        assert_eq!(peer.path, Some(Path::Udp(pair.outer[mover])));
    }
}

#[test]
fn who_delivers_a_packet_before_the_peer_does_moves_nothing() {
    for relayed in [false, true] {
        let mut pair = Pair::connected();
        let true_one = pair.outer[0];
        if relayed {
            // A path that is worse than any that is straight, so that each such one is better.
            pair.now += Duration::from_secs(1);
            pair.outer[0] = SocketAddr::from(([127, 0, 0, 1], 4000));
            pair.inner(0, b"by a bridge");
            pair.pump();
        }
        let path = Some(Path::Udp(pair.outer[0]));
        assert_eq!(pair.status(1).path, path);
        for second in 0..20 {
            pair.inner(0, b"raced");
            for datagram in pair.transmits(0) {
                let from = SocketAddr::from(([203, 0, 113, 9], 1000 + second));
                pair.routers[1].handle_datagram(from, &datagram, pair.now);
            }
            // What is sent there to find out is lost, and all else goes to the peer.
            let mut elsewhere = 0;
            while let Some(transmit) = pair.routers[1].poll_transmit() {
                assert_ne!(transmit.to, true_one);
                elsewhere += 1;
            }
            assert_eq!(elsewhere, 1);
            assert_eq!(pair.status(1).path, path, "in second {second}");
            pair.now += Duration::from_secs(1);
        }
        assert_eq!(path_changes(&mut pair, 1).len(), usize::from(relayed));
    }
}

/// Where the path has come to be, for each change of it that `node` told.
fn path_changes(pair: &mut Pair, node: usize) -> Vec<Path> {
    let events = pair.events(node).into_iter();
    let paths = events.filter_map(|event| match event {
        Event::PathChanged { to, .. } => Some(to),
        Event::HandshakeCompleted { .. }
        | Event::PathMtuChanged { .. }
        | Event::PathNarrow { .. }
        | Event::PeerSilent { .. }
        | Event::PeerReturned { .. } => None,
    });
    paths.collect()
}

#[test]
fn changes_of_a_path_are_told_once_a_second_and_the_last_one_in_the_end() {
    let mut pair = Pair::connected();
    let direct = pair.outer[0];
    // By a bridge on the own host, which ranks below UDP.
    let bridge = SocketAddr::from(([127, 0, 0, 1], 4000));
    let speak_from = |pair: &mut Pair, from| {
        pair.outer[0] = from;
        pair.inner(0, b"here");
        pair.pump();
        assert_eq!(pair.status(1).path, Some(Path::Udp(from)));
    };
    // As soon as the direct path has been silent for as long.
    pair.now += Duration::from_secs(1);
    speak_from(&mut pair, bridge);
    assert_eq!(path_changes(&mut pair, 1), [Path::Udp(bridge)]);
    speak_from(&mut pair, direct);
    assert_eq!(path_changes(&mut pair, 1), []);
    let due = pair.now + Duration::from_secs(1);
    while pair.now < due {
        let (next, _) = pair.routers[1].poll_timeout().unwrap();
        pair.now = next;
        pair.routers[1].handle_timeout(next);
    }
    assert_eq!(pair.now, due);
    assert_eq!(path_changes(&mut pair, 1), [Path::Udp(direct)]);
}

#[test]
fn a_new_endpoint_is_tried_once_the_path_does_not_answer() {
    let mut pair = Pair::new(Some(KEEPALIVE));
    pair.pump();
    let roamed = "198.51.100.7:4000".parse().unwrap();
    pair.outer[0] = roamed;
    pair.inner(0, b"I have moved");
    pair.pump();
    let status = pair.status(1);
    let elsewhere = "192.0.2.99:1".parse().unwrap();
    let config = fed_mesh::PeerConfig {
        public_key: status.public_key,
        endpoints: vec![elsewhere],
        allowed_ips: status.allowed_ips,
        keepalive: None,
    };
    let now = pair.now;
    pair.routers[1].set_peers(vec![config], now).unwrap();
    assert_eq!(pair.status(1).endpoint, Some(roamed));
    assert!(pair.status(1).connected, "the session survives");
    assert_eq!(pair.transmits(1), Vec::<Vec<u8>>::new());

    // Nothing comes back from there any longer.
    pair.inner(1, b"are you there?");
    let mut tried = std::collections::BTreeSet::new();
    for _ in 0..8 {
        pair.now += Duration::from_millis(500);
        let now = pair.now;
        pair.routers[1].handle_timeout(now);
        tried.extend(
            std::iter::from_fn(|| pair.routers[1].poll_transmit()).map(|transmit| transmit.to),
        );
    }
    assert_eq!(tried.into_iter().collect::<Vec<_>>(), [elsewhere, roamed]);
    assert_eq!(pair.status(1).endpoint, Some(roamed));
}

#[test]
fn a_forged_inner_source_is_refused_and_counted() {
    let mut pair = Pair::connected();
    let forged = ipv6(INNER[1], INNER[1], b"from yourself");
    let now = pair.now;
    pair.routers[0].handle_inner(&forged, now);
    pair.pump();
    assert_eq!(pair.delivered(1), Vec::<Vec<u8>>::new());
    assert_eq!(pair.status(1).drops.get(DropReason::SourceNotAllowed), 1);
    assert_eq!(
        pair.status(1).inner_received.packets,
        1,
        "the greeting alone"
    );
}

#[test]
fn a_removed_peer_is_a_stranger() {
    let mut pair = Pair::connected();
    let now = pair.now;
    pair.routers[1].set_peers(Vec::new(), now).unwrap();
    assert_eq!(pair.routers[1].poll_timeout(), None);
    pair.inner(0, b"anybody there?");
    pair.pump();
    assert_eq!(pair.routers[1].drops().get(DropReason::UnknownPeer), 1);
    assert_eq!(pair.delivered(1), Vec::<Vec<u8>>::new());
    // Nor does a stranger's initiation get an answer.
    let mut stranger = Pair::new(Some(KEEPALIVE));
    let bob = pair.routers[1].public_key();
    let mut config = fed_mesh::PeerConfig {
        public_key: bob,
        endpoints: vec![pair.outer[1]],
        allowed_ips: Vec::new(),
        keepalive: Some(KEEPALIVE),
    };
    config.allowed_ips.push("::/0".parse().unwrap());
    stranger.routers[0].set_peers(vec![config], now).unwrap();
    let initiation = stranger.transmits(0).pop().unwrap();
    pair.receive(1, &initiation);
    assert_eq!(pair.transmits(1), Vec::<Vec<u8>>::new());
    assert_eq!(pair.routers[1].drops().get(DropReason::UnknownPeer), 2);
}

#[test]
fn a_flood_of_handshakes_is_asked_for_cookies() {
    let mut pair = Pair::new(None);
    pair.inner(0, b"hello");
    let initiation = pair.transmits(0).remove(0);
    let challenged = (0..=fed_mesh::HANDSHAKES_PER_SECOND)
        .map(|_| {
            pair.receive(1, &initiation);
            pair.routers[1].drops().get(DropReason::UnderLoad)
        })
        .find(|challenged| *challenged > 0)
        .expect("the limit is never reached");
    let replies = pair.transmits(1);
    let cookies = replies.iter().filter(|reply| reply.len() == 64).count();
    assert_eq!(cookies as u64, challenged);
    // A cookie alone proves nothing about its sender: it is taken, and nobody has been heard.
    let cookie = replies.iter().find(|reply| reply.len() == 64).unwrap();
    pair.receive(0, cookie);
    assert_eq!(pair.status(0).last_heard, None);
    assert_eq!(pair.status(0).drops.total(), 0);
}

#[test]
fn a_flood_of_handshakes_does_not_keep_a_peer_out() {
    let mut pair = Pair::new(None);
    pair.inner(0, b"hello");
    let initiation = pair.transmits(0).remove(0);
    let cookie = (0..=fed_mesh::HANDSHAKES_PER_SECOND)
        .find_map(|_| {
            pair.receive(1, &initiation);
            let replies = pair.transmits(1);
            replies.into_iter().find(|reply| reply.len() == 64)
        })
        .expect("the limit is never reached");
    pair.receive(0, &cookie);
    // Alice calls again and shows the cookie, in the middle of the flood.
    pair.now += Duration::from_millis(500);
    let now = pair.now;
    pair.routers[0].handle_timeout(now);
    let again = pair.transmits(0).remove(0);
    for _ in 0..2 * fed_mesh::HANDSHAKES_PER_SECOND {
        pair.receive(1, &initiation);
    }
    pair.transmits(1);
    pair.receive(1, &again);
    pair.pump();
    assert!(pair.status(0).connected && pair.status(1).connected);
    assert_eq!(pair.delivered(1), [Pair::packet(0, b"hello")]);
}

#[test]
fn who_floods_with_a_cookie_is_answered_so_many_handshakes_a_second() {
    let pair = Pair::connected();
    let now = pair.now;
    let [_, mut bob] = pair.routers;
    let mut stocks = [1, 2].map(|number| Stock::new(number, bob.public_key()));
    let peers = stocks.iter().map(Stock::config).collect();
    bob.set_peers(peers, now).unwrap();
    let mut answers = |from, message: &[u8], now| {
        bob.handle_datagram(from, message, now);
        let answers = std::iter::from_fn(|| bob.poll_transmit());
        (
            answers.map(|answer| answer.payload).collect::<Vec<_>>(),
            bob.drops().get(DropReason::UnderLoad),
        )
    };
    let [flooder, other] = &mut stocks;
    let from = flooder.address;
    let free = fed_mesh::HANDSHAKES_PER_SECOND;
    let cookie = (0..=free)
        .find_map(|_| {
            let (replies, _) = answers(from, &flooder.call(), now);
            replies.into_iter().find(|reply| reply.len() == 64)
        })
        .expect("the limit is never reached");
    flooder.take(&cookie);
    let limit = u64::from(fed_mesh::HANDSHAKES_PER_SOURCE);
    let mut flood = |now| {
        let (_, before) = answers(from, &[], now);
        let answered = (0..10 * limit).map(|_| answers(from, &flooder.call(), now).0.len() as u64);
        let answered: u64 = answered.sum();
        let (_, after) = answers(from, &[], now);
        (answered, after - before)
    };
    assert_eq!(flood(now), (limit, 9 * limit));
    // The next second begins with those that nothing is asked of.
    let next = flood(now + Duration::from_secs(1));
    assert_eq!(next, (free + limit, 9 * limit - free));
    // It keeps nobody else out, who may be asked for a cookie too.
    let (replies, _) = answers(other.address, &other.call(), now);
    let again = other.take(&replies[0]).expect("an answer");
    if replies[0].len() == 64 {
        let (replies, _) = answers(other.address, &again, now);
        other.take(&replies[0]);
    }
    assert_eq!(other.rekeys, 1);
}

#[test]
fn who_renews_its_session_all_the_time_is_told_of_once_a_second() {
    let pair = Pair::connected();
    let mut now = pair.now;
    let [_, mut bob] = pair.routers;
    let mut stock = Stock::new(1, bob.public_key());
    bob.set_peers(vec![stock.config()], now).unwrap();
    let from = stock.address;
    for (after, told) in [(0, 1), (999, 0), (1, 1), (5000, 1)] {
        now += Duration::from_millis(after);
        for _ in 0..5 {
            bob.handle_datagram(from, &stock.call(), now);
            let answer = bob.poll_transmit().expect("fewer than the limit");
            let confirmation = stock.take(&answer.payload).unwrap();
            bob.handle_datagram(from, &confirmation, now);
            while bob.poll_transmit().is_some() {}
        }
        let events = std::iter::from_fn(|| bob.poll_event());
        let handshakes = events.filter(|event| matches!(event, Event::HandshakeCompleted { .. }));
        assert_eq!(handshakes.count(), told);
    }
    assert_eq!(bob.peers(now)[0].handshakes(), 20);
}

#[test]
fn a_quiet_peer_is_greeted_and_its_silence_told() {
    let mut pair = Pair::new(Some(KEEPALIVE));
    pair.pump();
    let start = pair.now;
    // The path is looked at first.
    for router in &mut pair.routers {
        router.handle_timeout(start);
    }
    pair.pump();
    pair.events(0);
    let first = pair.routers[0].poll_timeout().unwrap();
    assert_eq!(first.1, TimeoutReason::Session);
    let sent = pair.status(0).sent_bytes();

    pair.now = start + KEEPALIVE;
    let now = pair.now;
    pair.routers[0].handle_timeout(now);
    let greeting = pair.transmits(0);
    // It is asked whether the path works, because it has shown that it answers.
    assert_eq!(greeting.iter().map(Vec::len).collect::<Vec<_>>(), [84]);
    assert_eq!(pair.status(0).sent_bytes(), sent + 84);
    pair.receive(1, &greeting[0]);
    assert_eq!(pair.status(1).last_heard, Some(Duration::ZERO));

    // Nothing comes back to alice.
    pair.events(0);
    pair.now = start + SILENT_AFTER;
    let now = pair.now;
    pair.routers[0].handle_timeout(now);
    let peer = pair.routers[1].public_key();
    assert_eq!(
        pair.events(0),
        [Event::PeerSilent {
            peer,
            silence: SILENT_AFTER
        }]
    );
    pair.inner(1, b"I am here");
    pair.pump();
    assert_eq!(
        pair.events(0),
        [Event::PeerReturned {
            peer,
            silence: SILENT_AFTER
        }]
    );
    assert_eq!(pair.delivered(0), [Pair::packet(1, b"I am here")]);
}
