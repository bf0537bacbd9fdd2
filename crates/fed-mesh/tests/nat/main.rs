//! Thirty routers behind NATs and firewalls on virtual time, held against a reference model: who
//! must be connected, by which kind of path (`model.rs`). The network loses, repeats, delays and
//! reorders; pairs are cut, uplinks fail, NATs forget, routers restart.

mod bridges;
mod gate;
mod model;
#[path = "../sim/node.rs"]
mod node;
#[path = "../sim/numbered.rs"]
mod numbered;
#[path = "../sim/packet.rs"]
mod packet;
mod pauses;
#[path = "../sim/toy.rs"]
mod toy;
mod world;

use std::time::Duration;

use fed_mesh::{Event, Path};

use model::{Expected, Kind};
use numbered::key;
use world::{Weather, World};

const ROUTERS: usize = 30;

/// Within this long after a change all paths must be as the model says: what was opened by one
/// side is found by the other within two rounds of the slow search (25 s each), and by a router
/// that has to be told an address first within one more.
const SETTLING: Duration = Duration::from_secs(80);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// At least one open router, and the others at random.
fn kinds(seed: u64) -> Vec<Kind> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut kinds: Vec<Kind> = (0..ROUTERS)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let index = usize::try_from(state % 5).expect("below five");
            Kind::ALL[index]
        })
        .collect();
    kinds[0] = Kind::Open;
    kinds
}

fn settle_and_check(world: &mut World, when: &str) {
    world.run(SETTLING);
    check(world, when);
}

fn check(world: &mut World, when: &str) {
    // Where three pings in a row are lost a path is left for the moment that a fourth takes.
    for _ in 0..5 {
        if world.wrong_paths().is_empty() {
            break;
        }
        world.run(seconds(1));
    }
    world.check_paths(when);
    let since = world.now;
    // More than the weather loses.
    for _ in 0..4 {
        world.full_round();
        world.run(seconds(1));
    }
    world.check_deliveries(since, when);
}

#[test]
fn each_pair_finds_the_path_that_there_is() {
    for seed in 0..3 {
        let mut world = World::new(kinds(seed), Weather::FOUL, seed);
        world.run(seconds(20));
        check(&mut world, "at the beginning");
    }
}

#[test]
fn whatever_happens_each_pair_finds_the_path_that_there_is() {
    for seed in 10..12 {
        let mut world = World::new(kinds(seed), Weather::FOUL, seed);
        world.run(seconds(20));
        for change in 0..6 {
            let mut told = Vec::new();
            for _ in 0..3 {
                told.push(disturb(&mut world));
            }
            settle_and_check(&mut world, &format!("change {change}: {}", told.join(", ")));
        }
    }
}

/// Changes something at random, and says what.
fn disturb(world: &mut World) -> String {
    let (one, other) = (world.random(ROUTERS), world.random(ROUTERS));
    let pair = (one.min(other), one.max(other));
    match world.random(6) {
        0 | 1 if one != other && world.model.cut.len() < 40 => {
            world.model.cut.insert(pair);
            format!("cut {pair:?}")
        }
        2 if !world.model.cut.is_empty() => {
            let healed = world.model.cut.pop_first();
            format!("healed {healed:?}")
        }
        3 if one != 0 && world.model.down.len() < 3 => {
            world.model.down.insert(one);
            format!("{one} went down")
        }
        4 => match world.model.down.pop_first() {
            Some(up) => format!("{up} came up"),
            None => {
                world.restart(one);
                format!("restarted {one}")
            }
        },
        _ => {
            world.move_house(one);
            format!("moved {one}")
        }
    }
}

/// The packets from one router to another that were delivered between two moments.
fn delivered(world: &World, from: usize, to: usize, between: (Duration, Duration)) -> usize {
    let of_pair = world.deliveries.iter().filter(|delivery| {
        (delivery.from, delivery.to) == (from, to) && (between.0..between.1).contains(&delivery.at)
    });
    of_pair.count()
}

/// Sends 20 packets a second from 1 to 2 for so long; returns how many were lost.
fn stream(world: &mut World, duration: Duration) -> usize {
    let (start, interval) = (world.now, Duration::from_millis(50));
    let mut sent = 0;
    while world.now < start + duration {
        world.send_inner(1, 2);
        sent += 1;
        world.run(interval);
    }
    world.run(seconds(1));
    let arrived = delivered(world, 1, 2, (start, world.now));
    // The world's own traffic adds to what arrives.
    sent - arrived.min(sent)
}

#[test]
fn traffic_moves_to_a_direct_path_without_loss_and_back_to_the_relay_within_seconds() {
    let mut world = World::new(vec![Kind::Open; 3], Weather::CALM, 0);
    world.model.cut.insert((1, 2));
    world.run(seconds(10));
    assert_eq!(world.path(1, 2), Some(Path::Relay(key(0))));

    world.model.cut.clear();
    assert_eq!(stream(&mut world, seconds(40)), 0, "lost on the way up");
    assert_eq!(world.model.expected(1, 2), Expected::Direct);
    world.check_paths("after the direct path has opened");

    world.model.cut.insert((1, 2));
    let lost = stream(&mut world, seconds(40));
    assert_eq!(world.path(1, 2), Some(Path::Relay(key(0))));
    // What was sent in the 2.7 s that it takes to give the path up, and what was in flight.
    assert!((1..=60).contains(&lost), "{lost} lost on the way back");
}

/// Three routers, with TCP from all to all.
fn three_with_tcp(weather: Weather, seed: u64) -> World {
    let mut world = World::new(vec![Kind::Open; 3], weather, seed);
    world.tcp_passes = true;
    world
}

/// Lets no UDP pass any more.
fn cut_udp(world: &mut World) {
    world.model.cut.extend([(0, 1), (0, 2), (1, 2)]);
}

fn over_tcp(path: Option<Path>) -> bool {
    let address = path.and_then(|path| path.address());
    address.is_some_and(|at| at.ip().is_loopback())
}

#[test]
fn when_udp_ends_for_good_traffic_goes_over_tcp_within_seconds_and_back_without_loss() {
    for (weather, seed) in [(Weather::CALM, 0), (Weather::FOUL, 1), (Weather::FOUL, 2)] {
        let mut world = three_with_tcp(weather, seed);
        world.run(seconds(20));
        assert_eq!(world.bridges.count(), 0, "seed {seed}: UDP was there");
        cut_udp(&mut world);
        let lost = stream(&mut world, seconds(30));
        assert!(over_tcp(world.path(1, 2)) && over_tcp(world.path(2, 1)));
        // 20 a second. It takes 3 s to be cut off, a look to see it, one more to tell of the bridge,
        // and a ping by it.
        assert!((1..=6 * 20).contains(&lost), "seed {seed}: {lost} lost");

        world.model.cut.clear();
        let lost = stream(&mut world, seconds(40));
        assert_eq!(world.model.expected(1, 2), Expected::Direct);
        assert!(!over_tcp(world.path(1, 2)) && !over_tcp(world.path(2, 1)));
        let usual = if seed == 0 { 0 } else { 80 };
        assert!(lost <= usual, "seed {seed}: {lost} lost on the way back");
    }
}

#[test]
fn a_relay_is_taken_before_a_bridge_is_opened() {
    let mut world = three_with_tcp(Weather::CALM, 0);
    world.run(seconds(20));
    world.model.cut.insert((1, 2));
    stream(&mut world, seconds(30));
    assert_eq!(world.path(1, 2), Some(Path::Relay(key(0))));
    assert_eq!(world.bridges.count(), 0);
}

#[test]
fn a_router_that_is_reached_over_tcp_alone_relays() {
    for (weather, seed) in [(Weather::CALM, 0), (Weather::FOUL, 1), (Weather::FOUL, 2)] {
        let mut world = three_with_tcp(weather, seed);
        // The first has UDP with the third, and nobody but the first reaches the second.
        world.model.cut.extend([(0, 1), (1, 2)]);
        world.tcp_cut.insert((1, 2));
        world.run(seconds(30));
        let start = world.now;
        stream(&mut world, seconds(20));
        assert!(over_tcp(world.path(1, 0)) && over_tcp(world.path(0, 1)));
        for (from, to) in [(1, 2), (2, 1)] {
            let relay = Some(Path::Relay(key(0)));
            assert_eq!(world.path(from, to), relay, "seed {seed}: {from} to {to}");
        }
        let arrived = delivered(&world, 1, 2, (start, world.now));
        // Of 20 a second.
        let usual = if seed == 0 { 400 } else { 340 };
        assert!(arrived >= usual, "seed {seed}: {arrived} arrived");
    }
}

#[test]
fn ordinary_loss_neither_opens_bridges_nor_moves_traffic() {
    for seed in 0..10 {
        let lossy = Weather {
            loss: 0.05,
            ..Weather::CALM
        };
        let mut world = three_with_tcp(lossy, seed);
        world.run(seconds(20));
        let before = world.events.len();
        for _ in 0..20 * 120 {
            world.send_inner(1, 2);
            world.run(Duration::from_millis(25));
            // As TCP answers what it gets.
            world.send_inner(2, 1);
            world.run(Duration::from_millis(25));
        }
        assert_eq!(world.bridges.count(), 0, "seed {seed}");
        let between = [key(1), key(2)];
        let moved = world.events[before..].iter().filter(|(_, node, event)| {
            matches!(event, Event::PathChanged { peer, .. } if *node != 0 && between.contains(peer))
        });
        assert_eq!(moved.count(), 0, "seed {seed}");
    }
}

#[test]
fn a_host_that_was_suspended_comes_back() {
    // Shorter than a path is doubted for; than a session lives; than all attempts at one.
    for asleep in [1, 30, 200, 4000].map(seconds) {
        let mut world = World::new(kinds(5)[..8].to_vec(), Weather::FOUL, asleep.as_secs());
        world.run(seconds(20));
        for node in [0, 3] {
            world.suspend(node, asleep);
            settle_and_check(&mut world, &format!("{node} slept for {asleep:?}"));
        }
    }
}

#[test]
fn a_path_that_works_is_kept() {
    let mut world = World::new(kinds(3)[..12].to_vec(), Weather::CALM, 3);
    world.run(seconds(30));
    world.check_paths("at the beginning");
    let before = world.events.len();
    // Past the renewal of all sessions.
    world.run(seconds(400));
    let moves = world.events[before..].iter();
    let moves: Vec<_> = moves
        .filter(|(_, _, event)| matches!(event, Event::PathChanged { .. }))
        .collect();
    assert!(moves.is_empty(), "{moves:?}");
}
