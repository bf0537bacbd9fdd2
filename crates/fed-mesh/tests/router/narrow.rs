//! Two routers with two addresses each: by the first no packet of 1280 bytes passes, small ones do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fed_mesh::{Event, Ipv6Prefix, KEEPALIVE, MTU_MIN, Path, PeerConfig, PrivateKey, Router};

use crate::node::Node;
use crate::packet::ipv6;
use crate::pair::INNER;

/// What is around a datagram until it is an IPv4 packet.
const HEADERS: usize = 28;

struct Hosts {
    routers: [Node; 2],
    now: Instant,
    /// The longest IP packet that passes between the first addresses, and between the second ones.
    widths: [usize; 2],
    events: Vec<Event>,
}

fn address(node: usize, way: usize) -> SocketAddr {
    let net = [[192, 0, 2], [198, 51, 100]][way];
    let host = u8::try_from(node + 1).expect("two nodes");
    SocketAddr::from(([net[0], net[1], net[2], host], 51_820))
}

impl Hosts {
    fn new(widths: [usize; 2]) -> Self {
        let now = Instant::now();
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let mut routers = keys.clone().map(|key| Node::new(Router::new(key, now)));
        for node in [0, 1] {
            let peer = PeerConfig {
                public_key: keys[1 - node].public_key(),
                endpoints: [0, 1].map(|way| address(1 - node, way)).to_vec(),
                allowed_ips: vec![Ipv6Prefix::host(INNER[1 - node])],
                keepalive: Some(KEEPALIVE),
            };
            routers[node].set_peers(vec![peer], now).expect("one peer");
        }
        Self {
            routers,
            now,
            widths,
            events: Vec::new(),
        }
    }

    /// Sends 20 packets of 1280 bytes a second from the first to the second, which answers each
    /// with a small one; returns how many of the large and of the small ones were lost.
    fn stream(&mut self, duration: Duration) -> [usize; 2] {
        let large = ipv6(INNER[0], INNER[1], &[7; MTU_MIN - 40]);
        let small = ipv6(INNER[1], INNER[0], b"as TCP acknowledges");
        let mut lost = [0, 0];
        let end = self.now + duration;
        while self.now < end {
            self.now += Duration::from_millis(50);
            for router in &mut self.routers {
                router.handle_timeout(self.now);
            }
            self.routers[0].handle_inner(&large, self.now);
            self.routers[1].handle_inner(&small, self.now);
            self.carry();
            for (lost, node) in lost.iter_mut().zip([1, 0]) {
                *lost += 1;
                while self.routers[node].poll_deliver().is_some() {
                    *lost -= 1;
                }
            }
        }
        lost
    }

    fn carry(&mut self) {
        for _ in 0..20 {
            for node in [0, 1] {
                while let Some(transmit) = self.routers[node].poll_transmit() {
                    let mut ways = [0, 1].into_iter();
                    let way = ways.find(|way| address(1 - node, *way) == transmit.to);
                    let way = way.expect("an address of the other one");
                    if transmit.payload.len() + HEADERS <= self.widths[way] {
                        let from = address(node, way);
                        self.routers[1 - node].handle_datagram(from, &transmit.payload, self.now);
                    }
                }
            }
        }
        self.events
            .extend(std::iter::from_fn(|| self.routers[0].poll_event()));
    }

    fn narrows(&mut self) -> usize {
        let events = self.events.drain(..);
        let narrow = events.filter(|event| matches!(event, Event::PathNarrow { .. }));
        narrow.count()
    }

    fn path(&self, node: usize) -> Option<Path> {
        self.routers[node].peers(self.now).remove(0).path
    }
}

#[test]
fn a_path_that_carries_no_large_packets_is_left_for_one_that_does() {
    let mut hosts = Hosts::new([1320, 1500]);
    let [large, small] = hosts.stream(Duration::from_secs(60));
    // Three probes of Ethernet's width and six of the least, four a second.
    assert!(large < 20 * 4, "{large} lost");
    assert_eq!(small, 0);
    assert_eq!(hosts.narrows(), 1);
    // The other one has noticed nothing, and has come along; nobody goes back.
    let wide = |node: usize| Some(Path::Udp(address(1 - node, 1)));
    assert_eq!([0, 1].map(|node| hosts.path(node)), [0, 1].map(wide));
    assert_eq!(hosts.stream(Duration::from_secs(900)), [0, 0]);
    assert_eq!(hosts.narrows(), 0);

    // It narrows while it is used, and the other is wide by now.
    hosts.widths = [1500, 1320];
    let [large, _] = hosts.stream(Duration::from_secs(60));
    assert!(large < 20 * 6, "{large} lost");
    assert_eq!(hosts.stream(Duration::from_secs(60)), [0, 0]);
}

#[test]
fn where_no_path_carries_large_packets_small_ones_pass_and_another_way_is_asked_for() {
    let mut hosts = Hosts::new([1320, 1320]);
    let [large, small] = hosts.stream(Duration::from_secs(120));
    assert_eq!((large, small), (20 * 120, 0));
    assert_eq!(hosts.narrows(), 1);
    let status = hosts.routers[0].peers(hosts.now).remove(0);
    assert!(status.is_cut_off() && status.unanswered.is_none());
    assert_eq!(status.path_mtu, MTU_MIN);

    // It is tried every 2 s.
    hosts.widths = [1500, 1500];
    hosts.stream(Duration::from_secs(5));
    assert_eq!(hosts.stream(Duration::from_secs(5)), [0, 0]);
    let status = hosts.routers[0].peers(hosts.now).remove(0);
    assert!(!status.is_cut_off());
    assert_eq!(status.path_mtu, 1440);
}
