//! One direction between two hosts: what it delays, limits and loses.

use std::collections::VecDeque;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use super::counters::{Counters, DropReason};
use super::cut::Cut;

/// Bytes of an Ethernet header: two addresses and the type.
pub(super) const ETHERNET_HEADER: usize = 14;

const FULL_FRAME: u64 = 1514;
const MIN_QUEUE_FRAMES: u64 = 64;

/// What one direction between two hosts does to frames.
///
/// The default is the link of the demonstration: 20 ms one way, 100 Mbit/s, no loss.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkSpec {
    /// Propagation delay one way, added after the frame has been sent at `rate_bit_per_s`.
    pub delay: Duration,
    /// Rate at which frames are sent, in bit/s of Ethernet frames (14-byte header included;
    /// preamble, checksum and gap not). `None`: sending takes no time, and nothing queues.
    pub rate_bit_per_s: Option<u64>,
    /// Probability, 0 to 1, that a frame is lost on the way, after it was sent.
    pub loss: f64,
    /// Bytes that may wait, the frame being sent included; more is dropped at the tail.
    /// `None`: 100 ms of the rate, at least 64 full frames.
    pub queue_bytes: Option<u64>,
    /// Each frame takes up to this much longer, uniformly distributed.
    pub jitter: Duration,
    /// Whether jitter may let a frame overtake an earlier one. Without it, order is kept.
    pub reorder: bool,
    /// Probability, 0 to 1, that a frame arrives a second time, with a jitter of its own.
    pub repeat: f64,
    /// Largest payload in bytes (the frame without its 14-byte header) that passes; larger frames
    /// vanish without a message, as on a path whose ICMP is filtered.
    pub mtu: Option<usize>,
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self::new(Duration::from_millis(20), 100_000_000)
    }
}

impl LinkSpec {
    /// Makes a link without loss: `delay` one way, `rate_bit_per_s` in bit/s.
    #[must_use]
    pub fn new(delay: Duration, rate_bit_per_s: u64) -> Self {
        Self {
            delay,
            rate_bit_per_s: Some(rate_bit_per_s),
            loss: 0.0,
            queue_bytes: None,
            jitter: Duration::ZERO,
            reorder: false,
            repeat: 0.0,
            mtu: None,
        }
    }

    /// Sets the probability of loss, 0 to 1.
    #[must_use]
    pub fn with_loss(mut self, loss: f64) -> Self {
        self.loss = loss;
        self
    }

    /// The queue's limit in bytes, as given or derived from the rate.
    #[must_use]
    pub fn queue_limit(&self) -> u64 {
        let tenth_of_a_second = self.rate_bit_per_s.map_or(0, |rate| rate / 80);
        self.queue_bytes
            .unwrap_or_else(|| tenth_of_a_second.max(MIN_QUEUE_FRAMES * FULL_FRAME))
    }

    /// Checks the ranges of all values.
    ///
    /// # Errors
    /// A sentence saying which value is out of range and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        for (name, value) in [("loss", self.loss), ("repeat", self.repeat)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("{name} is {value}; give a probability from 0 to 1"));
            }
        }
        if self.rate_bit_per_s == Some(0) {
            return Err("rate is 0 bit/s; use a cut to let nothing through".to_owned());
        }
        Ok(())
    }

    fn sending_time(&self, bytes: u64) -> Duration {
        match self.rate_bit_per_s {
            None => Duration::ZERO,
            Some(rate) => {
                let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(rate);
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            }
        }
    }
}

/// A frame that has been accepted and is not yet sent to its last bit.
#[derive(Debug)]
struct Waiting {
    sent_at: Duration,
    sending_time: Duration,
    bytes: u64,
}

/// The state of one direction: what waits, until when it is busy, what it has counted.
#[derive(Debug)]
pub(super) struct Link {
    spec: LinkSpec,
    cut: Cut,
    waiting: VecDeque<Waiting>,
    waiting_bytes: u64,
    busy_until: Duration,
    last_arrival: Duration,
    counters: Counters,
}

impl Link {
    pub(super) fn new(spec: LinkSpec) -> Self {
        Self {
            spec,
            cut: Cut::Nothing,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            busy_until: Duration::ZERO,
            last_arrival: Duration::ZERO,
            counters: Counters::default(),
        }
    }

    /// Applies to frames offered from now on; those under way keep their time of arrival.
    pub(super) fn set_spec(&mut self, spec: LinkSpec) {
        self.spec = spec;
    }

    pub(super) fn set_cut(&mut self, cut: Cut) {
        self.cut = cut;
    }

    /// Returns when the frame arrives at the other end, if it does, and when it does so again.
    pub(super) fn offer(
        &mut self,
        now: Duration,
        frame: &[u8],
        rng: &mut Xoshiro256PlusPlus,
    ) -> [Option<Duration>; 2] {
        self.settle(now);
        let bytes = frame.len() as u64;
        if let Some(reason) = self.refusal(frame) {
            self.counters.drop_frame(reason);
            return [None; 2];
        }
        let sending_time = self.spec.sending_time(bytes);
        let sent_at = self.busy_until.max(now).saturating_add(sending_time);
        self.busy_until = sent_at;
        self.waiting_bytes += bytes;
        self.waiting.push_back(Waiting {
            sent_at,
            sending_time,
            bytes,
        });
        if self.spec.loss > 0.0 && rng.random_bool(self.spec.loss) {
            self.counters.drop_frame(DropReason::Loss);
            return [None; 2];
        }
        let first = self.arrival(sent_at, rng);
        let is_repeated = self.spec.repeat > 0.0 && rng.random_bool(self.spec.repeat);
        let second = is_repeated.then(|| self.arrival(sent_at, rng));
        self.counters.repeated += u64::from(is_repeated);
        [Some(first), second]
    }

    /// When a frame arrives whose last bit was sent at `sent_at`.
    fn arrival(&mut self, sent_at: Duration, rng: &mut Xoshiro256PlusPlus) -> Duration {
        let mut arrival = sent_at.saturating_add(self.spec.delay);
        if !self.spec.jitter.is_zero() {
            arrival = arrival.saturating_add(self.spec.jitter.mul_f64(rng.random::<f64>()));
        }
        if !self.spec.reorder {
            arrival = arrival.max(self.last_arrival);
        }
        self.last_arrival = self.last_arrival.max(arrival);
        arrival
    }

    /// Tells the link that a frame has reached the other end; whether it may be handed over.
    pub(super) fn arrive(&mut self, frame: &[u8]) -> bool {
        if self.cut.stops(frame) {
            self.counters.drop_frame(DropReason::Cut);
            return false;
        }
        self.counters.delivered_frames += 1;
        self.counters.delivered_bytes += frame.len() as u64;
        true
    }

    /// Takes back an [`Self::arrive`]: the receiving device did not take the frame.
    pub(super) fn refuse(&mut self, frame_bytes: usize) {
        self.counters.delivered_frames -= 1;
        self.counters.delivered_bytes -= frame_bytes as u64;
        self.counters.drop_frame(DropReason::Device);
    }

    pub(super) fn counters(&mut self, now: Duration) -> Counters {
        self.settle(now);
        self.counters.clone()
    }

    fn refusal(&self, frame: &[u8]) -> Option<DropReason> {
        if self.cut.stops(frame) {
            return Some(DropReason::Cut);
        }
        if self
            .spec
            .mtu
            .is_some_and(|mtu| frame.len() > mtu + ETHERNET_HEADER)
        {
            return Some(DropReason::Mtu);
        }
        let full = self.waiting_bytes + frame.len() as u64 > self.spec.queue_limit();
        (full && self.spec.rate_bit_per_s.is_some()).then_some(DropReason::Queue)
    }

    /// Counts the frames whose last bit has been sent by `now`.
    fn settle(&mut self, now: Duration) {
        while let Some(frame) = self.waiting.front().filter(|frame| frame.sent_at <= now) {
            self.waiting_bytes -= frame.bytes;
            self.counters.frames += 1;
            self.counters.bytes += frame.bytes;
            self.counters.busy += frame.sending_time;
            self.waiting.pop_front();
        }
    }
}
