//! Routers behind gates on virtual time, an operator that tells them of one another, and traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use fed_mesh::{
    Event, Ipv6Prefix, KEEPALIVE, Path, PeerConfig, PublicKey, Reflexive, Router, Sighting,
};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::bridges::Bridges;
use crate::gate::Gate;
use crate::model::{Expected, Kind, Model};
use crate::node::{Node, Transmit};
use crate::numbered::{inner, key, payload, read};
use crate::packet::ipv6;
use crate::toy::Toy;

/// How often each router sends to a few others.
const PERIOD: Duration = Duration::from_secs(1);
const OTHERS: usize = 3;

/// How often the operator tells routers what others see of them, where nothing else is said: more
/// often than in reality, so that what a change takes is over sooner.
const TELLING: Duration = Duration::from_secs(5);

/// How often nodes look after their bridges; one that is begun is open by the next look.
const LOOK: Duration = Duration::from_secs(1);

/// So long no bridges are opened at the beginning.
const UDP_PATIENCE: Duration = Duration::from_secs(4);

/// A datagram longer than this is lost: a relayed packet of 1280 bytes just fits.
const DATAGRAM_MAX: usize = fed_mesh::MTU_MIN + 32 + 16;

const STEPS_MAX: u64 = 5_000_000;

/// How bad the network is: shares from 0 to 1, and milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    pub(crate) loss: f64,
    pub(crate) repeat: f64,
    pub(crate) delay: (u64, u64),
}

impl Weather {
    pub(crate) const CALM: Self = Self {
        loss: 0.0,
        repeat: 0.0,
        delay: (20, 21),
    };
    pub(crate) const FOUL: Self = Self {
        loss: 0.03,
        repeat: 0.02,
        delay: (5, 100),
    };
}

struct Flying {
    from: SocketAddr,
    to: SocketAddr,
    sender: usize,
    payload: Vec<u8>,
}

/// A packet that was delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    pub(crate) at: Duration,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

pub(crate) struct World {
    pub(crate) model: Model,
    pub(crate) seed: u64,
    start: Instant,
    pub(crate) now: Duration,
    weather: Weather,
    rng: StdRng,
    routers: Vec<Node<Toy>>,
    deadlines: Vec<Option<Duration>>,
    /// How much of the time each router has slept: its clock stood still meanwhile.
    slept: Vec<Duration>,
    asleep: BTreeSet<usize>,
    gates: Vec<Gate>,
    pub(crate) tcp_passes: bool,
    /// Pairs between which it does not, the smaller number first.
    pub(crate) tcp_cut: BTreeSet<(usize, usize)>,
    pub(crate) bridges: Bridges,
    looking: Duration,
    hosts: BTreeMap<Ipv4Addr, usize>,
    next_host: u32,
    flying: BTreeMap<(Duration, u64), Flying>,
    sent: u64,
    traffic: Duration,
    telling: Duration,
    told: Vec<Vec<SocketAddr>>,
    number: u64,
    seen: BTreeSet<(usize, u64)>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) events: Vec<(Duration, usize, Event)>,
    pub(crate) steps: u64,
    /// How often the operator tells routers what others see of them.
    pub(crate) telling_every: Duration,
    /// Whether routers send nothing but what a test sends.
    pub(crate) quiet: bool,
    /// Pairs from the first of which to the second nothing passes.
    pub(crate) one_way: BTreeSet<(usize, usize)>,
}

impl World {
    pub(crate) fn new(kinds: Vec<Kind>, weather: Weather, seed: u64) -> Self {
        let count = kinds.len();
        let mut world = Self {
            seed,
            start: Instant::now(),
            now: Duration::ZERO,
            weather,
            rng: StdRng::seed_from_u64(seed),
            routers: Vec::new(),
            deadlines: vec![None; count],
            slept: vec![Duration::ZERO; count],
            asleep: BTreeSet::new(),
            gates: Vec::new(),
            tcp_passes: false,
            tcp_cut: BTreeSet::new(),
            bridges: Bridges::default(),
            looking: Duration::ZERO,
            hosts: BTreeMap::new(),
            next_host: 0,
            flying: BTreeMap::new(),
            sent: 0,
            traffic: Duration::ZERO,
            telling: Duration::from_secs(1),
            told: vec![Vec::new(); count],
            number: 0,
            seen: BTreeSet::new(),
            deliveries: Vec::new(),
            events: Vec::new(),
            steps: 0,
            telling_every: TELLING,
            quiet: false,
            one_way: BTreeSet::new(),
            model: Model {
                kinds,
                ..Model::default()
            },
        };
        for node in 0..count {
            let host = world.new_host(node);
            let gate = Gate::new(world.model.kinds[node], host);
            world.told[node].extend(gate.address());
            world.gates.push(gate);
        }
        for node in 0..count {
            let router = world.router(node);
            world.routers.push(router);
            world.flush(node);
        }
        world
    }

    pub(crate) fn count(&self) -> usize {
        self.gates.len()
    }

    /// The router is started anew with the same identity.
    pub(crate) fn restart(&mut self, node: usize) {
        self.routers[node] = self.router(node);
        self.flush(node);
    }

    /// The router's NAT gets another address and forgets all flows; an open router moves.
    pub(crate) fn move_house(&mut self, node: usize) {
        let host = self.new_host(node);
        self.gates[node].renew(host);
    }

    /// The router's host is suspended for so long. What is sent to it meanwhile is lost, and to the
    /// router itself no time has passed.
    pub(crate) fn suspend(&mut self, node: usize, duration: Duration) {
        self.asleep.insert(node);
        self.run(duration);
        self.asleep.remove(&node);
        self.slept[node] += duration;
        self.flush(node);
    }

    pub(crate) fn random(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    /// Sends one packet between all pairs, in both directions.
    pub(crate) fn full_round(&mut self) {
        for from in 0..self.count() {
            for to in (0..self.count()).filter(|to| *to != from) {
                self.send_inner(from, to);
            }
        }
    }

    pub(crate) fn send_inner(&mut self, from: usize, to: usize) {
        if self.asleep.contains(&from) {
            return;
        }
        self.number += 1;
        let payload = payload(self.seed, from, to, self.number, length(self.number));
        let packet = ipv6(inner(from), inner(to), &payload);
        let instant = self.instant(from);
        self.routers[from].handle_inner(&packet, instant);
        self.flush(from);
    }

    /// The path by which one router reaches another, if it has a session.
    pub(crate) fn path(&self, from: usize, to: usize) -> Option<Path> {
        let peers = self.routers[from].peers(self.instant(from));
        let peer = peers.into_iter().find(|peer| peer.public_key == key(to));
        peer.filter(|peer| peer.connected)?.path
    }

    /// The pairs whose paths are not as the model says.
    pub(crate) fn wrong_paths(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for from in 0..self.count() {
            let peers = self.routers[from].peers(self.instant(from));
            for to in (0..self.count()).filter(|to| *to != from) {
                let peer = peers.iter().find(|peer| peer.public_key == key(to));
                let path = peer
                    .filter(|peer| peer.connected)
                    .and_then(|peer| peer.path);
                let expected = self.model.expected(from, to);
                let right = match (expected, path) {
                    (Expected::Direct, Some(Path::Udp(_))) => true,
                    (Expected::Relayed, Some(Path::Relay(relay))) => {
                        let relay = (0..self.count()).find(|node| key(*node) == relay);
                        relay.is_some_and(|relay| {
                            self.model.expected(from, relay) == Expected::Direct
                                && self.model.expected(relay, to) == Expected::Direct
                        })
                    }
                    // What cannot be is seen by what is delivered.
                    (Expected::Nothing, _) => true,
                    (Expected::Direct | Expected::Relayed, _) => false,
                };
                if !right {
                    let kinds = (self.model.kinds[from], self.model.kinds[to]);
                    wrong.push(format!(
                        "{from} to {to} {kinds:?}: {expected:?}, has {path:?}"
                    ));
                }
            }
        }
        wrong
    }

    /// Holds the paths of all pairs against the model.
    pub(crate) fn check_paths(&self, when: &str) {
        let wrong = self.wrong_paths();
        assert!(
            wrong.is_empty(),
            "seed {}, {when}, at {:?}: {} of {} wrong\n{}",
            self.seed,
            self.now,
            wrong.len(),
            self.count() * (self.count() - 1),
            wrong.join("\n")
        );
    }

    /// Holds what was delivered since `since` against the model: something between all that can
    /// have it, nothing between the others.
    pub(crate) fn check_deliveries(&self, since: Duration, when: &str) {
        let pairs: BTreeSet<(usize, usize)> = self
            .deliveries
            .iter()
            .filter(|delivery| delivery.at >= since)
            .map(|delivery| (delivery.from, delivery.to))
            .collect();
        for from in 0..self.count() {
            for to in (0..self.count()).filter(|to| *to != from) {
                let possible = self.model.expected(from, to) != Expected::Nothing;
                assert_eq!(
                    pairs.contains(&(from, to)),
                    possible,
                    "seed {}, {when}: {from} to {to}, {:?}, by {:?}",
                    self.seed,
                    self.model.expected(from, to),
                    self.path(from, to),
                );
            }
        }
    }

    /// Lets virtual time run for so long.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let awake = (0..self.count()).filter(|node| !self.asleep.contains(node));
            let timeouts = awake.filter_map(|node| self.deadlines[node]);
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let next = timeouts
                .chain(arrival)
                .chain([self.traffic, self.telling, self.looking])
                .min();
            let next = next.expect("there is always traffic to come");
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.step();
            self.steps += 1;
            assert!(self.steps < STEPS_MAX, "seed {}: stands still", self.seed);
        }
    }

    /// What a router's clock shows.
    fn instant(&self, node: usize) -> Instant {
        self.start + self.now - self.slept[node]
    }

    fn step(&mut self) {
        if let Some(entry) = self.flying.first_entry()
            && entry.key().0 <= self.now
        {
            let flying = entry.remove();
            self.arrive(flying);
            return;
        }
        for node in 0..self.count() {
            let due = self.deadlines[node].is_some_and(|due| due <= self.now);
            if due && !self.asleep.contains(&node) {
                let instant = self.instant(node);
                self.routers[node].handle_timeout(instant);
                self.flush(node);
                let next = self.deadlines[node];
                assert!(
                    next.is_none_or(|at| at > self.now),
                    "a timeout is left overdue"
                );
            }
        }
        if self.telling <= self.now {
            self.telling = self.now + self.telling_every;
            self.tell();
        }
        if self.looking <= self.now {
            self.looking = self.now + LOOK;
            self.look_after_bridges();
        }
        if self.traffic <= self.now {
            self.traffic = self.now + PERIOD;
            let senders = if self.quiet { 0 } else { self.count() };
            for from in 0..senders {
                for _ in 0..OTHERS {
                    let to = self.random(self.count());
                    if to != from {
                        self.send_inner(from, to);
                    }
                }
            }
        }
    }

    /// Each node tells its router of the bridges that have opened since the last look, and opens
    /// others to the peers that are cut off.
    fn look_after_bridges(&mut self) {
        // In the first seconds UDP alone is tried.
        if !self.tcp_passes || self.now < UDP_PATIENCE {
            return;
        }
        for node in 0..self.count() {
            if self.asleep.contains(&node) {
                continue;
            }
            let instant = self.instant(node);
            if self.bridges.take_news(node) {
                self.connect(node);
            }
            for peer in self.routers[node].peers(instant) {
                let other = self.node_of(peer.public_key);
                if peer.is_cut_off() && !self.is_tcp_cut(node, other) {
                    self.bridges.open(node, other);
                }
            }
        }
    }

    fn is_tcp_cut(&self, one: usize, other: usize) -> bool {
        self.tcp_cut.contains(&(one.min(other), one.max(other)))
    }

    /// The operator collects what routers see of one another, and tells all of it to all.
    fn tell(&mut self) {
        let mut sightings = vec![Vec::new(); self.count()];
        for by in 0..self.count() {
            for peer in self.routers[by].peers(self.instant(by)) {
                let seen = Sighting::new(key(by), peer.endpoint, peer.last_heard);
                sightings[self.node_of(peer.public_key)].extend(seen);
            }
        }
        let told = |(gate, sightings): (&Gate, &Vec<Sighting>)| {
            let mut addresses: Vec<SocketAddr> = gate.address().into_iter().collect();
            addresses.extend(Reflexive::of(sightings).addresses);
            addresses
        };
        self.told = self.gates.iter().zip(&sightings).map(told).collect();
        for node in 0..self.count() {
            if self.asleep.contains(&node) {
                continue;
            }
            self.connect(node);
        }
    }

    /// Tells a router of its peers.
    fn connect(&mut self, node: usize) {
        let (peers, instant) = (self.peers(node), self.instant(node));
        self.routers[node]
            .set_peers(peers, instant)
            .expect("distinct peers");
        self.flush(node);
    }

    fn node_of(&self, router: PublicKey) -> usize {
        let mut nodes = 0..self.count();
        nodes
            .find(|node| key(*node) == router)
            .expect("peers are nodes")
    }

    fn peers(&self, node: usize) -> Vec<PeerConfig> {
        let others = (0..self.count()).filter(|peer| *peer != node);
        others
            .map(|peer| PeerConfig {
                public_key: key(peer),
                endpoints: self
                    .bridges
                    .told(node, peer)
                    .chain(self.told[peer].clone())
                    .collect(),
                allowed_ips: vec![Ipv6Prefix::new(inner(peer), 64).expect("below 128")],
                keepalive: Some(KEEPALIVE),
            })
            .collect()
    }

    fn router(&self, node: usize) -> Node<Toy> {
        let toy = Toy {
            own: key(node),
            epoch: self.start,
        };
        let instant = self.instant(node);
        let mut router = Node::new(Router::with_protocol(toy, instant));
        router
            .set_peers(self.peers(node), instant)
            .expect("distinct peers");
        router
    }

    fn new_host(&mut self, node: usize) -> Ipv4Addr {
        self.next_host += 1;
        let host = Ipv4Addr::from(0xc612_0000 + self.next_host);
        self.hosts.insert(host, node);
        host
    }

    fn send(&mut self, node: usize, transmit: Transmit) {
        if transmit.to.ip().is_loopback() {
            self.send_by_bridge(node, transmit);
            return;
        }
        let from = self.gates[node].leave(transmit.to, self.now);
        let too_long = transmit.payload.len() > DATAGRAM_MAX;
        if too_long || self.rng.random_bool(self.weather.loss) {
            return;
        }
        let copies = 1 + usize::from(self.rng.random_bool(self.weather.repeat));
        for _ in 0..copies {
            let (least, most) = self.weather.delay;
            let delay = self.rng.random_range(least..most);
            self.sent += 1;
            let flying = Flying {
                from,
                to: transmit.to,
                sender: node,
                payload: transmit.payload.clone(),
            };
            let arrival = self.now + Duration::from_millis(delay);
            self.flying.insert((arrival, self.sent), flying);
        }
    }

    /// Over TCP nothing is lost, and all comes in order.
    fn send_by_bridge(&mut self, node: usize, transmit: Transmit) {
        self.sent += 1;
        let flying = Flying {
            from: transmit.to,
            to: transmit.to,
            sender: node,
            payload: transmit.payload,
        };
        let arrival = self.now + Duration::from_millis(self.weather.delay.1);
        self.flying.insert((arrival, self.sent), flying);
    }

    fn arrive(&mut self, flying: Flying) {
        if let Some((node, from)) = self.bridges.other(flying.to) {
            if self.tcp_passes && !self.asleep.contains(&node) {
                let instant = self.instant(node);
                self.routers[node].handle_datagram(from, &flying.payload, instant);
                self.flush(node);
            }
            return;
        }
        let IpAddr::V4(host) = flying.to.ip() else {
            return;
        };
        let Some(node) = self.hosts.get(&host).copied() else {
            return;
        };
        let gate = &self.gates[node];
        let admitted = gate.host() == host
            && self.model.passes(flying.sender, node)
            && !self.one_way.contains(&(flying.sender, node))
            && gate.admits(flying.from, flying.to.port(), self.now);
        if admitted && !self.asleep.contains(&node) {
            let instant = self.instant(node);
            self.routers[node].handle_datagram(flying.from, &flying.payload, instant);
            self.flush(node);
        }
    }

    /// Moves out what a router hands out, and holds it against what was sent.
    fn flush(&mut self, node: usize) {
        while let Some(transmit) = self.routers[node].poll_transmit() {
            self.send(node, transmit);
        }
        while let Some(event) = self.routers[node].poll_event() {
            self.events.push((self.now, node, event));
        }
        while let Some(packet) = self.routers[node].poll_deliver() {
            let (from, number) = read(&packet);
            let sent = payload(self.seed, from, node, number, length(number));
            assert_eq!(packet, ipv6(inner(from), inner(node), &sent), "at {node}");
            let first = self.seen.insert((node, number));
            assert!(first, "seed {}: packet {number} came twice", self.seed);
            let delivery = Delivery {
                at: self.now,
                from,
                to: node,
            };
            self.deliveries.push(delivery);
        }
        let due = self.routers[node].poll_timeout();
        let slept = self.slept[node];
        self.deadlines[node] = due.map(|(at, _)| at.duration_since(self.start) + slept);
    }
}

/// Every sixteenth packet is as long as packets may be.
fn length(number: u64) -> usize {
    if number.is_multiple_of(16) {
        fed_mesh::MTU_MIN - 49
    } else {
        16
    }
}
