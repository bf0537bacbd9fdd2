//! The learning switch between the hosts: pure, handed frames and the time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::Xoshiro256PlusPlus;

use super::counters::Counters;
use super::cut::Cut;
use super::link::{ETHERNET_HEADER, Link, LinkSpec};

type Mac = [u8; 6];

/// A frame that has reached its receiving port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// When it was due.
    pub due: Duration,
    /// The sending port.
    pub from: usize,
    /// The receiving port.
    pub to: usize,
    /// The Ethernet frame.
    pub frame: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due: Duration,
    sequence: u64,
    from: usize,
    to: usize,
    frame: Vec<u8>,
}

/// A switch whose every ordered pair of ports is a [`LinkSpec`] of its own.
///
/// Times are durations since any one origin and must not decrease from call to call. The same
/// calls with the same seed give the same result.
#[derive(Debug)]
pub struct Switch {
    ports: usize,
    links: Vec<Link>,
    stations: BTreeMap<Mac, usize>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    sequence: u64,
    rng: Xoshiro256PlusPlus,
}

impl Switch {
    /// Makes a switch of `ports` ports, numbered from 0, with the same link between all of them.
    #[must_use]
    pub fn new(ports: usize, spec: &LinkSpec, seed: u64) -> Self {
        Self {
            ports,
            links: (0..ports * ports)
                .map(|_| Link::new(spec.clone()))
                .collect(),
            stations: BTreeMap::new(),
            under_way: BinaryHeap::new(),
            sequence: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    /// Changes one direction for the frames that come from now on.
    pub fn set_link(&mut self, from: usize, to: usize, spec: LinkSpec) {
        self.link(from, to).set_spec(spec);
    }

    /// Cuts or mends one direction; a cut also loses what is under way.
    pub fn set_cut(&mut self, from: usize, to: usize, cut: Cut) {
        self.link(from, to).set_cut(cut);
    }

    /// Takes a frame from a port. May change the deadline of [`Self::poll_timeout`].
    ///
    /// Frames to a group or to an address not yet seen go to every other port, each over its link.
    pub fn handle_frame(&mut self, now: Duration, from: usize, frame: Vec<u8>) {
        let (Some(destination), Some(source)) = (address(&frame, 0), address(&frame, 6)) else {
            return;
        };
        if frame.len() < ETHERNET_HEADER {
            return;
        }
        if !is_group(source) {
            self.stations.insert(source, from);
        }
        let known = self.stations.get(&destination).copied();
        match known.filter(|_| !is_group(destination)) {
            Some(to) if to == from => {}
            Some(to) => self.send(now, from, to, frame),
            None => {
                for to in (0..self.ports).filter(|to| *to != from) {
                    self.send(now, from, to, frame.clone());
                }
            }
        }
    }

    /// When the next frame is due; `None` while nothing is under way.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.under_way.peek().map(|Reverse(next)| next.due)
    }

    /// Returns the next frame that is due by `now`.
    pub fn poll_delivery(&mut self, now: Duration) -> Option<Delivery> {
        while self.poll_timeout().is_some_and(|due| due <= now) {
            let Reverse(UnderWay {
                due,
                from,
                to,
                frame,
                ..
            }) = self.under_way.pop()?;
            if self.link(from, to).arrive(&frame) {
                return Some(Delivery {
                    due,
                    from,
                    to,
                    frame,
                });
            }
        }
        None
    }

    /// Tells the switch that the receiving device refused a delivered frame.
    pub fn refuse(&mut self, delivery: &Delivery) {
        self.link(delivery.from, delivery.to)
            .refuse(delivery.frame.len());
    }

    /// What one direction has carried and dropped up to `now`.
    pub fn counters(&mut self, now: Duration, from: usize, to: usize) -> Counters {
        self.link(from, to).counters(now)
    }

    fn send(&mut self, now: Duration, from: usize, to: usize, frame: Vec<u8>) {
        let link = &mut self.links[from * self.ports + to];
        let [first, second] = link.offer(now, &frame, &mut self.rng);
        if let Some(due) = second {
            self.put(due, from, to, frame.clone());
        }
        if let Some(due) = first {
            self.put(due, from, to, frame);
        }
    }

    fn put(&mut self, due: Duration, from: usize, to: usize, frame: Vec<u8>) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.under_way.push(Reverse(UnderWay {
            due,
            sequence,
            from,
            to,
            frame,
        }));
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.ports + to]
    }
}

fn address(frame: &[u8], at: usize) -> Option<Mac> {
    frame.get(at..at + 6)?.try_into().ok()
}

fn is_group(mac: Mac) -> bool {
    mac[0] & 1 == 1
}
