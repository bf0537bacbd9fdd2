//! Thirty routers behind NATs and firewalls on virtual time, held against a reference model: who
//! must be connected, by which kind of path (`model.rs`). The network loses, repeats, delays and
//! reorders; pairs are cut, uplinks fail, NATs forget, routers restart.

mod gate;
mod model;
#[path = "../sim/node.rs"]
mod node;
#[path = "../sim/numbered.rs"]
mod numbered;
#[path = "../sim/packet.rs"]
mod packet;
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
