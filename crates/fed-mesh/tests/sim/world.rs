//! Five routers in full mesh on virtual time, with traffic between all pairs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fed_mesh::{Event, Ipv6Prefix, KEEPALIVE, PeerConfig, Router};

use crate::network::{Network, Partition, Weather};
use crate::node::Node;
use crate::numbered::{inner, key, payload, read};
use crate::packet::ipv6;
use crate::toy::Toy;

pub(crate) const NODES: usize = 5;

/// How often each node sends to each other one.
const PERIOD: Duration = Duration::from_secs(1);

/// A loop that stands still in virtual time would never end otherwise.
const STEPS_MAX: u64 = 5_000_000;

/// What happened, in order: the trace by which two runs are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    Delivered { to: usize, from: usize, number: u64 },
    Event { at: usize, event: Event },
}

pub(crate) struct World {
    start: Instant,
    pub(crate) now: Duration,
    seed: u64,
    routers: Vec<Node<Toy>>,
    network: Network,
    /// When the next round of packets is due; `None` for a silent mesh.
    traffic: Option<Duration>,
    rounds: u64,
    delivered: BTreeSet<(usize, usize, u64)>,
    pub(crate) trace: Vec<(Duration, Happening)>,
    steps: u64,
}

impl World {
    pub(crate) fn new(weather: Weather, partition: Option<Partition>, seed: u64) -> Self {
        let start = Instant::now();
        let mut world = Self {
            start,
            now: Duration::ZERO,
            seed,
            routers: Vec::new(),
            network: Network::new(weather, partition, seed),
            traffic: Some(Duration::ZERO),
            rounds: 0,
            delivered: BTreeSet::new(),
            trace: Vec::new(),
            steps: 0,
        };
        world.routers = (0..NODES).map(|node| world.router(node)).collect();
        world
    }

    /// The same without inner packets.
    pub(crate) fn silent(mut self) -> Self {
        self.traffic = None;
        self
    }

    /// Replaces a router by a new one with the same identity: a crash, and a start at once.
    pub(crate) fn restart(&mut self, node: usize) {
        self.routers[node] = self.router(node);
    }

    pub(crate) fn router_mut(&mut self, node: usize) -> &mut Node<Toy> {
        &mut self.routers[node]
    }

    /// Lets virtual time run to `end`.
    pub(crate) fn run_until(&mut self, end: Duration) {
        loop {
            self.flush();
            let timeouts = self
                .routers
                .iter()
                .filter_map(|router| router.poll_timeout());
            let timeout = timeouts.map(|(at, _)| at.duration_since(self.start)).min();
            let next = [timeout, self.network.next_arrival(), self.traffic];
            let next = next.into_iter().flatten().min().unwrap_or(end);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.step();
            self.steps += 1;
            assert!(
                self.steps < STEPS_MAX,
                "the mesh stands still at {:?}",
                self.now
            );
        }
    }

    /// The packets sent to each other node so far.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds
    }

    /// How many packets went over each pair within the bounds of time.
    pub(crate) fn deliveries(&self, from: Duration, to: Duration) -> BTreeMap<(usize, usize), u64> {
        let mut counts: BTreeMap<_, _> = pairs().map(|pair| (pair, 0)).collect();
        for (at, happening) in &self.trace {
            if let Happening::Delivered {
                to: node,
                from: source,
                ..
            } = happening
                && (from..to).contains(at)
            {
                *counts.get_mut(&(*source, *node)).expect("a pair of nodes") += 1;
            }
        }
        counts
    }

    /// The events that `select` picks, by node.
    pub(crate) fn events(&self, select: impl Fn(&Event) -> bool) -> Vec<(Duration, usize, Event)> {
        let events = self
            .trace
            .iter()
            .filter_map(|(time, happening)| match happening {
                Happening::Event { at, event } if select(event) => {
                    Some((*time, *at, event.clone()))
                }
                Happening::Event { .. } | Happening::Delivered { .. } => None,
            });
        events.collect()
    }

    pub(crate) fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn router(&self, node: usize) -> Node<Toy> {
        let toy = Toy {
            own: key(node),
            epoch: self.start,
        };
        let mut router = Node::new(Router::with_protocol(toy, self.instant()));
        let peers = (0..NODES)
            .filter(|peer| *peer != node)
            .map(config)
            .collect();
        router
            .set_peers(peers, self.instant())
            .expect("distinct peers");
        router
    }

    fn step(&mut self) {
        let instant = self.instant();
        if let Some(arrived) = self.network.arrive(self.now) {
            let from = Network::address(arrived.from);
            self.routers[arrived.to].handle_datagram(from, &arrived.payload, instant);
            return;
        }
        for router in &mut self.routers {
            if router.poll_timeout().is_some_and(|(at, _)| at <= instant) {
                router.handle_timeout(instant);
                let next = router.poll_timeout().map(|(at, _)| at);
                assert!(
                    next.is_none_or(|at| at > instant),
                    "a timeout is left overdue"
                );
            }
        }
        if self.traffic.is_some_and(|due| due <= self.now) {
            self.traffic = Some(self.now + PERIOD);
            for (from, to) in pairs() {
                let payload = payload(self.seed, from, to, self.rounds, length(self.rounds));
                let packet = ipv6(inner(from), inner(to), &payload);
                self.routers[from].handle_inner(&packet, instant);
            }
            self.rounds += 1;
        }
    }

    /// Moves out what the routers hand out, and holds it against what was sent.
    fn flush(&mut self) {
        for node in 0..NODES {
            let router = &mut self.routers[node];
            while let Some(transmit) = router.poll_transmit() {
                self.network.send(self.now, node, transmit);
            }
            while let Some(event) = router.poll_event() {
                self.trace
                    .push((self.now, Happening::Event { at: node, event }));
            }
            while let Some(packet) = router.poll_deliver() {
                let (from, number) = read(&packet);
                let sent = payload(self.seed, from, node, number, length(number));
                assert_eq!(
                    packet,
                    ipv6(inner(from), inner(node), &sent),
                    "at node {node}"
                );
                assert!(number < self.rounds, "a packet that was never sent");
                let first = self.delivered.insert((from, node, number));
                assert!(first, "packet {number} from {from} came to {node} twice");
                let to = node;
                self.trace
                    .push((self.now, Happening::Delivered { to, from, number }));
            }
        }
    }
}

/// All ordered pairs of nodes.
pub(crate) fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (0..NODES).flat_map(|from| {
        (0..NODES)
            .filter(move |to| *to != from)
            .map(move |to| (from, to))
    })
}

pub(crate) fn config(node: usize) -> PeerConfig {
    let prefix = Ipv6Prefix::new(inner(node), 64).expect("a length below 128");
    PeerConfig {
        public_key: key(node),
        endpoints: vec![Network::address(node)],
        allowed_ips: vec![prefix],
        keepalive: Some(KEEPALIVE),
    }
}

/// Packets of many lengths.
fn length(number: u64) -> usize {
    usize::try_from(number * 37 % 600).expect("a small number")
}
