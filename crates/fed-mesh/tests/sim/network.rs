//! A network that loses, repeats, delays, damages and reorders datagrams, and that can be cut.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::node::Transmit;

/// How bad the network is.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// Share of datagrams lost, repeated, damaged; 0 to 1.
    pub(crate) loss: f64,
    pub(crate) repeat: f64,
    pub(crate) damage: f64,
    /// Each datagram takes its own time, in milliseconds: so they overtake one another.
    pub(crate) delay: Range<u64>,
    /// The longest datagram that passes, in bytes.
    pub(crate) width: usize,
}

/// Ethernet, less the headers of IPv4 and UDP.
const WIDTH: usize = 1500 - 28;

impl Weather {
    pub(crate) const CALM: Self = Self {
        loss: 0.0,
        repeat: 0.0,
        damage: 0.0,
        delay: 5..6,
        width: WIDTH,
    };
    pub(crate) const FOUL: Self = Self {
        loss: 0.1,
        repeat: 0.05,
        damage: 0.01,
        delay: 5..150,
        width: WIDTH,
    };
}

/// While it lasts, nothing passes between the nodes below `split` and the others.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    pub(crate) during: Range<Duration>,
    pub(crate) split: usize,
}

impl Partition {
    pub(crate) fn cuts(&self, one: usize, other: usize) -> bool {
        (one < self.split) != (other < self.split)
    }
}

/// A datagram on its way.
#[derive(Debug)]
pub(crate) struct Flying {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Network {
    weather: Weather,
    partition: Option<Partition>,
    rng: StdRng,
    /// By the time of arrival, and in the order of sending where that is equal.
    flying: BTreeMap<(Duration, u64), Flying>,
    sent: u64,
}

impl Network {
    pub(crate) fn new(weather: Weather, partition: Option<Partition>, seed: u64) -> Self {
        Self {
            weather,
            partition,
            rng: StdRng::seed_from_u64(seed),
            flying: BTreeMap::new(),
            sent: 0,
        }
    }

    /// The outer address of a node.
    pub(crate) fn address(node: usize) -> SocketAddr {
        let host = u8::try_from(node + 1).expect("a handful of nodes");
        SocketAddr::from(([192, 0, 2, host], 51_820))
    }

    pub(crate) fn send(&mut self, now: Duration, from: usize, transmit: Transmit) {
        let to = (0..=usize::from(u8::MAX) - 1)
            .find(|node| Self::address(*node) == transmit.to)
            .expect("a datagram goes to a node of the simulation");
        let cut = self
            .partition
            .as_ref()
            .is_some_and(|p| p.during.contains(&now) && p.cuts(from, to));
        let wide = transmit.payload.len() > self.weather.width;
        if cut || wide || self.rng.random_bool(self.weather.loss) {
            return;
        }
        let copies = 1 + usize::from(self.rng.random_bool(self.weather.repeat));
        for _ in 0..copies {
            let mut payload = transmit.payload.clone();
            if self.rng.random_bool(self.weather.damage) {
                let at = self.rng.random_range(0..payload.len());
                payload[at] ^= 1 << self.rng.random_range(0..8);
            }
            let delay = self.rng.random_range(self.weather.delay.clone());
            self.sent += 1;
            let arrival = (now + Duration::from_millis(delay), self.sent);
            self.flying.insert(arrival, Flying { from, to, payload });
        }
    }

    pub(crate) fn next_arrival(&self) -> Option<Duration> {
        self.flying.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes what has arrived by `now`, one at a time.
    pub(crate) fn arrive(&mut self, now: Duration) -> Option<Flying> {
        let entry = self.flying.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
