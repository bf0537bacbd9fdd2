//! Simulation of a mesh of five routers on virtual time: loss, repetition, damage, reordering, and
//! partitions that heal. Every delivery is held against what was sent (see `world.rs`): the right
//! node, unchanged, once.

mod network;
mod node;
mod numbered;
mod packet;
mod toy;
mod world;

use std::time::Duration;

use fed_mesh::{Event, SILENT_AFTER};

use network::{Partition, Weather};
use numbered::key;
use world::{NODES, World, config, pairs};

const SEEDS: std::ops::Range<u64> = 0..6;

/// A datagram takes 150 ms at most.
const FLIGHT: Duration = Duration::from_millis(150);

/// Within this long after a partition heals every pair must deliver again: the 5 s between
/// handshake attempts, a few times over, for those lost to the weather.
const HEALING: Duration = Duration::from_secs(30);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn foul_weather_costs_no_more_than_it_takes() {
    for seed in SEEDS {
        let mut world = World::new(Weather::FOUL, None, seed);
        world.run_until(HEALING);
        let before = world.rounds();
        // Past the renewal of all sessions, which must not be felt.
        world.run_until(seconds(400));
        let sent = world.rounds() - before;
        for (pair, count) in world.deliveries(HEALING, seconds(400)) {
            assert!(
                count * 10 >= sent * 8,
                "seed {seed}, {pair:?}: {count} of {sent} delivered at a tenth lost"
            );
        }
    }
}

#[test]
fn a_calm_network_loses_nothing_from_the_first_packet() {
    let mut world = World::new(Weather::CALM, None, 0);
    world.run_until(seconds(600));
    let sent = world.rounds();
    world.run_until(seconds(600) + FLIGHT);
    for (pair, count) in world.deliveries(Duration::ZERO, seconds(601)) {
        assert_eq!(count, sent, "{pair:?}");
    }
}

#[test]
fn every_path_is_found_to_be_wider_than_the_least() {
    for seed in SEEDS {
        let mut world = World::new(Weather::FOUL, None, seed);
        world.run_until(HEALING);
        let now = world.instant();
        for node in 0..NODES {
            for peer in world.router_mut(node).peers(now) {
                // Three losses in a row are taken for a narrow path, until the next search.
                let found = fed_mesh::MTU_MIN + 1..=1440;
                assert!(
                    found.contains(&peer.path_mtu),
                    "seed {seed}, {node}: {peer:?}"
                );
                let round_trip = peer.rtt.expect("measured by now");
                assert!((10..300).contains(&round_trip.as_millis()), "{peer:?}");
            }
        }
    }
}

#[test]
fn renewed_sessions_do_not_search_again() {
    let mut world = World::new(Weather::CALM, None, 0);
    world.run_until(seconds(500));
    let found = world.events(|event| matches!(event, Event::PathMtuChanged { .. }));
    assert_eq!(found.len(), pairs().count(), "{found:?}");
    let widest = |event: &Event| matches!(event, Event::PathMtuChanged { mtu: 1440, .. });
    assert!(found.iter().all(|(_, _, event)| widest(event)), "{found:?}");
}

#[test]
fn a_partition_heals() {
    // Shorter than a session's life; longer than that and the attempts at a handshake together.
    for length in [seconds(20), seconds(200), seconds(400)] {
        for seed in SEEDS {
            partition_heals(seed, length);
        }
    }
}

fn partition_heals(seed: u64, length: Duration) {
    let (cut, healed) = (seconds(60), seconds(60) + length);
    let partition = Partition {
        during: cut..healed,
        split: 2,
    };
    let mut world = World::new(Weather::FOUL, Some(partition.clone()), seed);
    world.run_until(healed + seconds(120));

    let context = |pair| format!("seed {seed}, cut for {length:?}, {pair:?}");
    for (pair, count) in world.deliveries(cut + FLIGHT, healed) {
        if partition.cuts(pair.0, pair.1) {
            assert_eq!(count, 0, "{}: something crossed the cut", context(pair));
        } else {
            assert!(count > 0, "{}: the same side suffered", context(pair));
        }
    }
    for (pair, count) in world.deliveries(healed, healed + HEALING) {
        assert!(count > 0, "{}: not healed", context(pair));
    }
    let silent = world.events(|event| matches!(event, Event::PeerSilent { .. }));
    let returned = world.events(|event| matches!(event, Event::PeerReturned { .. }));
    let crossing = pairs().filter(|(a, b)| partition.cuts(*a, *b)).count();
    let expected = if length > SILENT_AFTER { crossing } else { 0 };
    assert_eq!(
        (silent.len(), returned.len()),
        (expected, expected),
        "seed {seed}, {length:?}"
    );
}

#[test]
fn a_mesh_without_traffic_heals_at_the_next_retry() {
    // A round of attempts lasts 90 s: heal in every part of it.
    for healed in (400..520).step_by(5).map(seconds) {
        let partition = Partition {
            during: seconds(60)..healed,
            split: 2,
        };
        let mut world = World::new(Weather::CALM, Some(partition), 0).silent();
        let returned = |world: &World| {
            let events = world.events(|event| matches!(event, Event::PeerReturned { .. }));
            events.len()
        };
        world.run_until(healed);
        assert_eq!(returned(&world), 0);
        world.run_until(healed + seconds(5) + FLIGHT);
        assert_eq!(
            returned(&world),
            2 * 2 * (NODES - 2),
            "healed at {healed:?}"
        );
    }
}

#[test]
fn a_router_that_crashed_is_taken_back() {
    for seed in SEEDS {
        let mut world = World::new(Weather::FOUL, None, seed);
        world.run_until(seconds(60));
        world.restart(3);
        world.run_until(seconds(60) + HEALING);
        for (pair, count) in world.deliveries(seconds(60) + FLIGHT, seconds(60) + HEALING) {
            assert!(
                count > 0,
                "seed {seed}, {pair:?}: not delivering after the restart"
            );
        }
    }
}

#[test]
fn a_silent_mesh_stays_in_touch() {
    let mut world = World::new(Weather::CALM, None, 0).silent();
    world.run_until(seconds(3600));
    let silent = world.events(|event| matches!(event, Event::PeerSilent { .. }));
    assert_eq!(silent, []);
    let now = world.instant();
    for node in 0..NODES {
        for peer in world.router_mut(node).peers(now) {
            assert!(peer.handshakes() > 10, "{node}: {peer:?}");
        }
    }
}

#[test]
fn a_removed_peer_is_cut_off_and_the_others_feel_nothing() {
    let mut world = World::new(Weather::CALM, None, 0);
    world.run_until(seconds(10));
    let now = world.instant();
    let left = (1..NODES - 1).map(config).collect();
    world.router_mut(0).set_peers(left, now).unwrap();
    world.run_until(seconds(300));
    let sent_since = seconds(10) + FLIGHT;
    for ((from, to), count) in world.deliveries(sent_since, seconds(300)) {
        let removed = [from, to].contains(&0) && [from, to].contains(&(NODES - 1));
        if removed {
            assert_eq!(count, 0, "{from} to {to}");
        } else {
            // One packet a second, and the last is still on its way.
            assert!(count >= 289, "{from} to {to}: {count}");
        }
    }
    let now = world.instant();
    let peers = world.router_mut(0).peers(now);
    assert!(peers.iter().all(|peer| peer.public_key != key(NODES - 1)));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let partition = Partition {
            during: seconds(30)..seconds(150),
            split: 3,
        };
        let mut world = World::new(Weather::FOUL, Some(partition), seed);
        world.run_until(seconds(300));
        world.trace
    };
    let first = run(7);
    assert_eq!(first, run(7));
    assert_ne!(first, run(8));
}
