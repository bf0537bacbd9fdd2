//! WireGuard between two routers that each have an address of IPv6 and one of IPv4, on virtual time:
//! how soon the family that lives is taken, and that it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use fed_mesh::{Event, Ipv6Prefix, KEEPALIVE, Path, PeerConfig, PrivateKey, Router};

use crate::node::Node;
use crate::packet::ipv6;

const FLIGHT: Duration = Duration::from_millis(10);

/// Between two packets of a stream.
const INTERVAL: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V6,
    V4,
}

use Family::{V4, V6};

impl Family {
    fn of(address: SocketAddr) -> Self {
        if address.is_ipv6() { V6 } else { V4 }
    }

    fn other(self) -> Self {
        match self {
            V6 => V4,
            V4 => V6,
        }
    }
}

/// Until there is a session, at most: by the fifth round of calls each family has been tried alone.
const CALLED_WITHIN: Duration = Duration::from_millis(2600);

/// Until a family that has died is left, at most: a second of doubt, three rounds, what the round
/// trips take, and the interval of the stream.
const LEFT_WITHIN: Duration = Duration::from_millis(2700);

/// What arrives: at which router, from where.
type Flying = (usize, SocketAddr, Vec<u8>);

struct Dual {
    routers: [Node; 2],
    now: Instant,
    /// What does not pass: of which sender, in which family.
    dead: BTreeSet<(usize, Family)>,
    flying: BTreeMap<(Instant, u64), Flying>,
    sent: u64,
    /// When packets were delivered, by router.
    delivered: [Vec<Instant>; 2],
    events: Vec<(Instant, usize, Event)>,
}

fn outer(node: usize, family: Family) -> SocketAddr {
    let ip = match family {
        V6 => format!("2001:db8::{}", node + 1).parse(),
        V4 => format!("192.0.2.{}", node + 1).parse(),
    };
    SocketAddr::new(ip.expect("an address"), 51_820)
}

fn inner(node: usize) -> Ipv6Addr {
    let number = u16::from(node == 1);
    Ipv6Addr::new(0xfd00, 0, 0, number, 0, 0, 0, 1)
}

impl Dual {
    /// `first` is the family that is to be tried first. Whether the second router knows where the
    /// first one is says `known`.
    fn new(first: Family, known: bool, dead: &[(usize, Family)]) -> Self {
        let now = Instant::now();
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let mut dual = Self {
            routers: keys.clone().map(|key| Node::new(Router::new(key, now))),
            now,
            dead: dead.iter().copied().collect(),
            flying: BTreeMap::new(),
            sent: 0,
            delivered: [Vec::new(), Vec::new()],
            events: Vec::new(),
        };
        for node in [1, 0] {
            let other = 1 - node;
            let endpoints = [first, first.other()].map(|family| outer(other, family));
            let peer = PeerConfig {
                public_key: keys[other].public_key(),
                endpoints: endpoints
                    .into_iter()
                    .filter(|_| node == 0 || known)
                    .collect(),
                allowed_ips: vec![Ipv6Prefix::host(inner(other))],
                keepalive: Some(KEEPALIVE),
            };
            dual.routers[node]
                .set_peers(vec![peer], now)
                .expect("one peer");
            dual.flush(node);
        }
        dual
    }

    fn flush(&mut self, node: usize) {
        while let Some(transmit) = self.routers[node].poll_transmit() {
            let family = Family::of(transmit.to);
            assert_eq!(transmit.to, outer(1 - node, family));
            if !self.dead.contains(&(node, family)) {
                self.sent += 1;
                let arrival = (self.now + FLIGHT, self.sent);
                let flying = (1 - node, outer(node, family), transmit.payload);
                self.flying.insert(arrival, flying);
            }
        }
        while self.routers[node].poll_deliver().is_some() {
            self.delivered[node].push(self.now);
        }
        while let Some(event) = self.routers[node].poll_event() {
            self.events.push((self.now, node, event));
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let due = |node: &Node| node.poll_timeout().map(|(at, _)| at);
            let timeouts = self.routers.iter().filter_map(due);
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = timeouts.chain(arrival).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, (node, from, datagram)) = self.flying.pop_first().expect("one arrives");
                self.routers[node].handle_datagram(from, &datagram, self.now);
                self.flush(node);
                continue;
            }
            for node in [0, 1] {
                self.routers[node].handle_timeout(self.now);
                self.flush(node);
            }
        }
    }

    fn send(&mut self, node: usize) {
        let packet = ipv6(inner(node), inner(1 - node), b"one of a stream");
        self.routers[node].handle_inner(&packet, self.now);
        self.flush(node);
    }

    /// A stream from each of `senders` to the other one; returns the longest time in which nothing
    /// of it arrived.
    fn stream(&mut self, senders: &[usize], duration: Duration) -> Duration {
        let (start, end) = (self.now, self.now + duration);
        while self.now < end {
            for node in senders {
                self.send(*node);
            }
            self.run(INTERVAL);
        }
        let gap = |node: &usize| {
            let arrived = &self.delivered[1 - *node];
            let since = arrived.iter().filter(|at| **at >= start);
            let moments: Vec<_> = since.copied().chain([end]).collect();
            let gaps = moments.iter().scan(start, |last, at| {
                Some(at.duration_since(std::mem::replace(last, *at)))
            });
            gaps.max().expect("the end")
        };
        senders.iter().map(gap).max().expect("a sender")
    }

    /// Holds the paths of both against the family that they are to take.
    #[track_caller]
    fn check(&self, family: Family, when: &str) {
        for node in [0, 1] {
            let status = self.routers[node].peers(self.now).remove(0);
            let expected = Path::Udp(outer(1 - node, family));
            assert_eq!(status.path, Some(expected), "{when}: of {node}");
        }
    }

    /// The changes of path since `since`.
    fn moves(&self, since: Instant) -> usize {
        let moves = self
            .events
            .iter()
            .filter(|(at, _, event)| *at >= since && matches!(event, Event::PathChanged { .. }));
        moves.count()
    }
}

/// A family is dead for both, or for what one of the two sends.
fn deaths(family: Family) -> [Vec<(usize, Family)>; 3] {
    [
        vec![(0, family), (1, family)],
        vec![(0, family)],
        vec![(1, family)],
    ]
}

#[test]
fn both_families_are_tried_at_once() {
    for first in [V6, V4] {
        for dead in [V6, V4] {
            for known in [true, false] {
                let death = [(0, dead), (1, dead)];
                let mut dual = Dual::new(first, known, &death);
                dual.send(0);
                // A handshake and the packet, which is much less than any second attempt takes.
                dual.run(FLIGHT * 10);
                let when = format!("{dead:?} is dead, {first:?} comes first, known: {known}");
                assert_eq!(dual.delivered[1].len(), 1, "{when}");
                dual.check(dead.other(), &when);
            }
        }
    }
}

#[test]
fn a_family_that_carries_one_direction_alone_is_given_up() {
    for first in [V6, V4] {
        for dead in [V6, V4] {
            for known in [true, false] {
                for death in deaths(dead) {
                    let mut dual = Dual::new(first, known, &death);
                    let when = format!("{death:?} are dead, {first:?} comes first, known: {known}");
                    let gap = dual.stream(&[0, 1], Duration::from_secs(60));
                    assert!(gap <= CALLED_WITHIN, "{when}: nothing for {gap:?}");
                    dual.check(dead.other(), &when);
                }
            }
        }
    }
}

#[test]
fn a_family_that_dies_is_left_within_seconds_and_paths_stay_where_they_are_then() {
    for first in [V6, V4] {
        for senders in [&[0][..], &[1], &[0, 1]] {
            for number in 0..3 {
                let mut dual = Dual::new(first, true, &[]);
                dual.stream(senders, Duration::from_secs(20));
                dual.check(first, "at the beginning");
                let death = &deaths(first)[number];
                dual.dead.extend(death);
                let when = format!("{death:?} died under a stream of {senders:?}");
                let gap = dual.stream(senders, Duration::from_secs(30));
                assert!(gap <= LEFT_WITHIN, "{when}: nothing for {gap:?}");
                dual.check(first.other(), &when);
                let since = dual.now;
                // With the family dead, and alive again.
                for _ in 0..2 {
                    dual.stream(senders, Duration::from_secs(150));
                    dual.dead.clear();
                }
                assert_eq!(dual.moves(since), 0, "{when}: {:?}", dual.events);
                dual.check(first.other(), &when);
            }
        }
    }
}
