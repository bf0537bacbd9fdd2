//! How long traffic stands still when something changes, in a world that is quiet otherwise: routers
//! send nothing but the streams of the test, and the operator tells as seldom as in reality.

use std::time::Duration;

use fed_mesh::Path;

use crate::model::Kind;
use crate::numbered::key;
use crate::seconds;
use crate::world::{Weather, World};

/// How often the operator tells routers what others see of them, once a federation is up.
const TELLING: Duration = Duration::from_secs(60);

/// What Dask waits for is 30 s. A path is in doubt after 1 s and two round trips, and the first
/// question brings everything in order; twice that, for what is lost on the way.
const PAUSE_MAX: Duration = Duration::from_secs(3);

fn quiet(kinds: Vec<Kind>, weather: Weather, seed: u64, idle: Duration) -> World {
    let mut world = World::new(kinds, weather, seed);
    world.quiet = true;
    world.run(seconds(20));
    world.telling_every = TELLING;
    world.run(idle);
    world
}

/// Sends 20 packets a second by each of the streams, from one router to another; returns the
/// longest pause of each, from one that arrived to the next.
fn pauses(world: &mut World, streams: &[(usize, usize)], duration: Duration) -> Vec<Duration> {
    let start = world.now;
    while world.now < start + duration {
        for (from, to) in streams {
            world.send_inner(*from, *to);
        }
        world.run(Duration::from_millis(50));
    }
    let pause = |(from, to): &(usize, usize)| {
        let stream = world.deliveries.iter().filter(|delivery| {
            (delivery.from, delivery.to) == (*from, *to) && delivery.at >= start
        });
        let mut moments = vec![start];
        moments.extend(stream.map(|delivery| delivery.at));
        moments.push(world.now);
        let pauses = moments.windows(2).map(|pair| pair[1] - pair[0]);
        pauses.max().unwrap_or_default()
    };
    streams.iter().map(pause).collect()
}

/// Renews the NAT of a router under the streams, in every phase of keepalives and of what the operator
/// tells; no stream may pause for longer than `most`.
fn renew_nat(kinds: &[Kind], router: usize, streams: &[(usize, usize)], most: Duration) {
    for idle in (20..80).step_by(7).map(seconds) {
        let mut world = quiet(kinds.to_vec(), Weather::CALM, 1, idle);
        pauses(&mut world, streams, seconds(10));
        world.move_house(router);
        let pauses = pauses(&mut world, streams, seconds(60));
        let longest = pauses.iter().max().expect("a stream");
        assert!(
            *longest < most,
            "{kinds:?}, {streams:?}, idle for {idle:?}: {pauses:?}"
        );
    }
}

const RELAYED: [&[Kind]; 3] = [
    &[Kind::Open, Kind::Symmetric, Kind::Symmetric],
    &[
        Kind::Open,
        Kind::Open,
        Kind::Open,
        Kind::Symmetric,
        Kind::Symmetric,
    ],
    &[Kind::Open, Kind::Restricted, Kind::Symmetric],
];

#[test]
fn a_nat_that_is_renewed_costs_a_relayed_stream_seconds() {
    for kinds in RELAYED {
        let (one, other) = (kinds.len() - 2, kinds.len() - 1);
        renew_nat(kinds, one, &[(one, other), (other, one)], PAUSE_MAX);
    }
}

#[test]
fn who_only_receives_notices_that_its_nat_was_renewed() {
    // It asks after 2 s, and is in doubt of a relay after another.
    let most = PAUSE_MAX + seconds(2);
    renew_nat(&[Kind::Open, Kind::Restricted], 1, &[(0, 1)], most);
    for kinds in RELAYED {
        let (one, other) = (kinds.len() - 2, kinds.len() - 1);
        renew_nat(kinds, one, &[(other, one)], most);
    }
}

#[test]
fn a_path_that_dies_in_one_direction_is_left_by_both() {
    for seed in 0..5 {
        for dead in [(1, 2), (2, 1)] {
            let mut world = quiet(vec![Kind::Open; 3], Weather::CALM, seed, seconds(10));
            let both = [(1, 2), (2, 1)];
            pauses(&mut world, &both, seconds(10));
            world.one_way.insert(dead);
            let pauses = pauses(&mut world, &both, seconds(40));
            // One leaves it when it has heard nothing for 2.5 s; the other one follows when what
            // came by it has ceased for the second of doubt.
            let longest = pauses.iter().max().expect("two streams");
            assert!(*longest < seconds(4), "{dead:?} died: {pauses:?}");
            for (from, to) in both {
                assert_eq!(
                    world.path(from, to),
                    Some(Path::Relay(key(0))),
                    "{dead:?} died"
                );
            }
        }
    }
}
