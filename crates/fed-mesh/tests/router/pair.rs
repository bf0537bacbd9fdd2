//! Two routers that speak WireGuard, with nothing but memory between them.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use fed_mesh::{Event, PeerConfig, PeerStatus, PrivateKey, Router};

use crate::node::Node;
use crate::packet::ipv6;

/// The two routers; index 0 is `alice`, 1 is `bob`.
pub(crate) struct Pair {
    pub(crate) routers: [Node; 2],
    /// Where each one's datagrams come from.
    pub(crate) outer: [SocketAddr; 2],
    pub(crate) now: Instant,
    /// The longest datagram that [`Self::pump`] carries, in bytes.
    pub(crate) width: usize,
}

pub(crate) const INNER: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1),
];

impl Pair {
    /// With a keepalive both know where the other is; without, only alice does, and calls.
    pub(crate) fn new(keepalive: Option<Duration>) -> Self {
        let now = Instant::now();
        let keys = [PrivateKey::generate(), PrivateKey::generate()];
        let outer = [
            "192.0.2.1:51820".parse().expect("an address"),
            "192.0.2.2:51820".parse().expect("an address"),
        ];
        let mut routers = keys.clone().map(|key| Node::new(Router::new(key, now)));
        for node in [0, 1] {
            let peer = PeerConfig {
                public_key: keys[1 - node].public_key(),
                endpoints: if node == 0 || keepalive.is_some() {
                    vec![outer[1 - node]]
                } else {
                    Vec::new()
                },
                allowed_ips: vec![fed_mesh::Ipv6Prefix::host(INNER[1 - node])],
                keepalive,
            };
            routers[node].set_peers(vec![peer], now).expect("one peer");
        }
        Self {
            routers,
            outer,
            now,
            width: usize::MAX,
        }
    }

    /// A pair with a session between them.
    pub(crate) fn connected() -> Self {
        let mut pair = Self::new(None);
        pair.inner(0, b"first");
        pair.pump();
        assert_eq!(pair.delivered(1), [Self::packet(0, b"first")]);
        pair.events(0);
        pair.events(1);
        pair
    }

    /// The packet from `node` to the other one with this payload.
    pub(crate) fn packet(node: usize, payload: &[u8]) -> Vec<u8> {
        ipv6(INNER[node], INNER[1 - node], payload)
    }

    pub(crate) fn inner(&mut self, node: usize, payload: &[u8]) {
        self.routers[node].handle_inner(&Self::packet(node, payload), self.now);
    }

    /// All that `node` wants to send now.
    pub(crate) fn transmits(&mut self, node: usize) -> Vec<Vec<u8>> {
        let router = &mut self.routers[node];
        std::iter::from_fn(|| router.poll_transmit())
            .map(|transmit| transmit.payload)
            .collect()
    }

    /// Hands `node` a datagram of the other one.
    pub(crate) fn receive(&mut self, node: usize, datagram: &[u8]) {
        let from = self.outer[1 - node];
        self.routers[node].handle_datagram(from, datagram, self.now);
    }

    /// Carries datagrams to and fro until neither has more to say.
    pub(crate) fn pump(&mut self) {
        for _ in 0..100 {
            let mut quiet = true;
            for node in [0, 1] {
                for datagram in self.transmits(node) {
                    quiet = false;
                    if datagram.len() <= self.width {
                        self.receive(1 - node, &datagram);
                    }
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the routers do not come to rest");
    }

    pub(crate) fn delivered(&mut self, node: usize) -> Vec<Vec<u8>> {
        let router = &mut self.routers[node];
        std::iter::from_fn(|| router.poll_deliver()).collect()
    }

    pub(crate) fn events(&mut self, node: usize) -> Vec<Event> {
        let router = &mut self.routers[node];
        std::iter::from_fn(|| router.poll_event()).collect()
    }

    /// What `node` knows of the other one.
    pub(crate) fn status(&self, node: usize) -> PeerStatus {
        self.routers[node].peers(self.now).remove(0)
    }
}
