//! The path between two routers that speak WireGuard: its width is found, used and followed.

use std::time::Duration;

use fed_mesh::{DropReason, Event, MTU_MAX, MTU_MIN, TimeoutReason};

use crate::packet::ipv6;
use crate::pair::{INNER, Pair};

/// What is around a datagram until it is an IPv4 packet.
const HEADERS: usize = 28;

/// A pair with a session, between which IP packets of up to `width` bytes pass.
fn pair(width: usize) -> Pair {
    let mut pair = Pair::connected();
    pair.width = width - HEADERS;
    pair
}

/// Lets `time` pass, with all timers; datagrams arrive at once.
fn run(pair: &mut Pair, time: Duration) {
    let end = pair.now + time;
    loop {
        pair.pump();
        let due = pair.routers.iter().filter_map(|r| r.poll_timeout()).min();
        let Some((due, _)) = due.filter(|(due, _)| *due <= end) else {
            pair.now = end;
            return;
        };
        pair.now = pair.now.max(due);
        for router in &mut pair.routers {
            router.handle_timeout(pair.now);
        }
    }
}

fn mtu(pair: &Pair, node: usize) -> usize {
    pair.status(node).path_mtu
}

/// The packet of `length` bytes from alice to bob.
fn packet(length: usize) -> Vec<u8> {
    ipv6(INNER[0], INNER[1], &vec![7; length - 40])
}

#[test]
fn both_ends_find_the_width_by_themselves() {
    for (width, expected) in [(1340, MTU_MIN), (1500, 1440), (1492, 1432), (9000, MTU_MAX)] {
        let mut pair = pair(width);
        assert_eq!(mtu(&pair, 0), MTU_MIN);
        let due = pair.routers[0].poll_timeout();
        assert_eq!(due, Some((pair.now, TimeoutReason::Path)));
        run(&mut pair, Duration::from_secs(20));
        for node in [0, 1] {
            let status = pair.status(node);
            assert_eq!(status.path_mtu, expected, "width {width}");
            assert_eq!(status.rtt, Some(Duration::ZERO));
            let peer = status.public_key;
            let told = Event::PathMtuChanged {
                peer,
                mtu: expected,
            };
            let events = pair.events(node);
            assert_eq!(events.contains(&told), expected > MTU_MIN, "{events:?}");
            // Probes are no packets of anybody's.
            assert_eq!(pair.delivered(node), Vec::<Vec<u8>>::new());
            assert_eq!(status.drops.total(), 0);
        }
        assert_eq!(pair.status(0).inner_sent.packets, 1, "the greeting alone");
        assert_eq!(pair.status(1).inner_received.packets, 1);
    }
}

#[test]
fn what_does_not_fit_is_answered_and_what_fits_arrives_whole() {
    let mut pair = pair(1500);
    run(&mut pair, Duration::from_secs(20));
    let now = pair.now;
    for _ in 0..3 {
        pair.routers[0].handle_inner(&packet(1441), now);
    }
    // In three batches, so each is answered.
    let answers = pair.delivered(0);
    assert_eq!(answers.len(), 3);
    for answer in answers {
        assert_eq!(answer[40..42], [2, 0], "Packet Too Big");
        assert_eq!(answer[44..48], 1440u32.to_be_bytes());
        assert_eq!(answer[48..], packet(1441)[..MTU_MIN - 48]);
    }
    assert_eq!(pair.status(0).drops.get(DropReason::TooBig), 3);
    pair.routers[0].handle_inner(&packet(1440), now);
    pair.pump();
    assert_eq!(pair.delivered(1), [packet(1440)]);
}

#[test]
fn a_black_hole_is_left_while_packets_fall_into_it() {
    let mut pair = pair(9000);
    run(&mut pair, Duration::from_secs(20));
    pair.width = 1500 - HEADERS;
    let mut seconds = 0;
    while mtu(&pair, 0) != 1440 {
        let (now, length) = (pair.now, mtu(&pair, 0));
        pair.routers[0].handle_inner(&packet(length), now);
        run(&mut pair, Duration::from_secs(1));
        seconds += 1;
        assert!(seconds < 10, "still at {length}");
    }
    // The other direction carries nothing, and has not noticed.
    assert_eq!(mtu(&pair, 1), MTU_MAX);
    let now = pair.now;
    pair.delivered(1);
    pair.routers[0].handle_inner(&packet(1440), now);
    pair.pump();
    assert_eq!(pair.delivered(1), [packet(1440)]);
}

#[test]
fn a_peer_that_moves_to_a_narrow_path_is_followed() {
    let mut pair = pair(9000);
    run(&mut pair, Duration::from_secs(20));
    pair.width = 1400 - HEADERS;
    pair.outer[0] = "198.51.100.7:4000".parse().unwrap();
    pair.inner(0, b"I have moved");
    run(&mut pair, Duration::from_secs(20));
    assert_eq!(mtu(&pair, 1), 1340);
}
