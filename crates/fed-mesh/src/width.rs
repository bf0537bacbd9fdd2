//! The width of the path to a peer: how large a packet it carries, and how long a round trip takes.
//!
//! This is Packetization Layer Path MTU Discovery for Datagrams (RFC 8899). Padded pings go
//! through the tunnel; what the peer answers fits. No message of a router on the way is believed,
//! so a path that swallows what is too long is found out like any other. Beside each large ping
//! goes a small one: where neither is answered the path is down, and nothing has been learnt of
//! its width.

use std::time::{Duration, Instant};

use crate::{MTU_MIN, OVERHEAD};

/// IP packets that links in use carry, in bytes. Searching among these is quicker than to the byte
/// and loses no more than the difference to the next.
const LINKS: [usize; 13] = [
    1380, // several tunnels in one another
    1400, // some clouds' virtual networks, IPsec
    1420, // WireGuard
    1440, // IPsec
    1450, // VXLAN
    1460, // some clouds' virtual networks
    1476, // GRE
    1480, // 6in4
    1492, // PPPoE
    ETHERNET, 8500, // transit between clouds' virtual networks
    8896, // some clouds' virtual networks
    9000, // jumbo frames
];

/// What most paths carry, and so the first to be tried.
const ETHERNET: usize = 1500;

/// A size is too large after so many probes are lost, each beside a small one that was not
/// (RFC 8899, section 5.1.2: `MAX_PROBES`).
const PROBES: u8 = 3;

/// So many for what every path is to carry: traffic leaves a path that does not, so that loss alone
/// must not look like it.
const FLOOR_PROBES: u8 = 6;

/// How long to wait for an acknowledgement before the round trip is known, and the bounds after.
const TIMEOUT: Duration = Duration::from_secs(1);
const TIMEOUT_MIN: Duration = Duration::from_millis(250);
const TIMEOUT_MAX: Duration = Duration::from_secs(4);

/// The longest wait, while nothing at all is acknowledged, is the timeout doubled so often.
const BACKOFF_MAX: u32 = 6;

/// While large packets are sent, whether such still pass is tried this often. It is how long a path
/// that has narrowed may go unnoticed.
const CONFIRM: Duration = Duration::from_secs(2);

/// While packets are sent, the round trip is measured at least this often.
const MEASURE: Duration = Duration::from_secs(10);

/// The numbers of these pings, which start here, are no others'.
const FIRST: u64 = 1 << 63;

/// How often a wider path is hoped for (RFC 8899, section 5.1.1: `PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_secs(600);

/// The path that is taken to one peer.
#[derive(Debug)]
pub(crate) struct Width {
    /// The largest inner packet that the router takes, in bytes.
    max: usize,
    /// What the path adds to an inner packet until it is an IP packet, in bytes.
    overhead: usize,
    /// The largest inner packet that is known to fit, in bytes.
    mtu: usize,
    /// Whether that is to be relied on, or to be tried again first.
    confirmed: bool,
    /// Whether not even [`MTU_MIN`] fits.
    narrow: bool,
    /// The smallest size known not to fit; beyond `max` where there is none.
    ceiling: usize,
    round_trip: Option<RoundTrip>,
    /// Whether there is a session that probes can be sent in.
    awake: bool,
    round: Option<Round>,
    /// The number of the next small probe; the large one beside it bears the next.
    number: u64,
    sent: Sent,
    /// When the last round ended.
    rested: Instant,
    /// When to hope for a wider path.
    raise: Instant,
}

/// What has been sent since the path was last looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sent {
    Nothing,
    Small,
    Large,
}

/// Probes whose acknowledgements are waited for.
#[derive(Debug)]
struct Round {
    /// The size of the large probe, if there is one.
    size: Option<usize>,
    /// The numbers of the small probes sent first and last.
    first: u64,
    last: u64,
    /// When the last ones were sent.
    at: Instant,
    due: Instant,
    /// Whether a small one was acknowledged since.
    answered: bool,
    /// Large ones lost beside a small one that was not.
    lost: u8,
    /// Times that neither was acknowledged, in a row.
    silent: u32,
}

/// Probes to be sent now, the small one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probes {
    /// The number of the small one.
    pub(crate) small: u64,
    /// The number of the large one, and the length of its inner packet in bytes.
    pub(crate) large: Option<(u64, usize)>,
}

impl Width {
    /// A path that nothing is known of, for inner packets of up to `max` bytes.
    pub(crate) fn new(max: usize, overhead: usize, now: Instant) -> Self {
        Self {
            max,
            overhead,
            mtu: MTU_MIN.min(max),
            confirmed: true,
            narrow: false,
            ceiling: max + 1,
            round_trip: None,
            awake: false,
            round: None,
            number: FIRST,
            sent: Sent::Nothing,
            rested: now,
            raise: now,
        }
    }

    /// The largest inner packet that fits, in bytes.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu
    }

    /// Whether not even packets of [`MTU_MIN`] fit, while small ones do.
    pub(crate) fn is_narrow(&self) -> bool {
        self.narrow
    }

    /// The smoothed round-trip time.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.map(|round_trip| round_trip.smoothed)
    }

    /// Notes that a session stands. The first one after [`Self::sleep`] starts a search.
    pub(crate) fn wake(&mut self, now: Instant) {
        if !self.awake {
            self.awake = true;
            self.search(now);
        }
    }

    /// Notes that no probe can be sent.
    pub(crate) fn sleep(&mut self) {
        self.awake = false;
        self.round = None;
    }

    /// Notes that packets go another way, which adds `overhead` bytes to each. What fitted is
    /// tried at once, and kept meanwhile.
    pub(crate) fn moved(&mut self, overhead: usize, now: Instant) {
        self.overhead = overhead;
        self.round_trip = None;
        self.search(now);
    }

    /// Notes that an inner packet of so many bytes is sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        let sent = if bytes >= MTU_MIN {
            Sent::Large
        } else {
            Sent::Small
        };
        self.sent = self.sent.max(sent);
    }

    /// When [`Self::poll`] has something to do. All calls with `&mut self` may change it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if !self.awake {
            return None;
        }
        if let Some(round) = &self.round {
            return Some(round.due);
        }
        if self.candidate().is_some() {
            return Some(self.rested);
        }
        let look = self.look();
        Some(look.map_or(self.raise, |at| at.min(self.raise)))
    }

    /// When a path that is used is to be looked after.
    fn look(&self) -> Option<Instant> {
        match self.sent {
            Sent::Nothing => None,
            Sent::Small => Some(self.rested + MEASURE),
            Sent::Large => Some(self.rested + CONFIRM),
        }
    }

    /// Does what is due, and returns the probes to send.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Probes> {
        if !self.awake {
            return None;
        }
        match self.round.take() {
            Some(round) if now < round.due => {
                self.round = Some(round);
                None
            }
            Some(round) => match self.judge(round) {
                Some(round) => Some(self.send(round, now)),
                None => {
                    self.rest(now);
                    self.next(now)
                }
            },
            None => self.next(now),
        }
    }

    /// Whether a ping of this number is one of these.
    pub(crate) fn owns(number: u64) -> bool {
        number >= FIRST
    }

    /// Notes that a ping was answered.
    pub(crate) fn answered(&mut self, number: u64, now: Instant) {
        let Some(round) = &mut self.round else {
            return;
        };
        if !(round.first..=round.last + 1).contains(&number) {
            return;
        }
        let is_large = (number - round.first) % 2 == 1;
        if is_large {
            if let Some(size) = round.size {
                self.mtu = self.mtu.max(size);
                self.confirmed = true;
                if std::mem::take(&mut self.narrow) {
                    self.ceiling = self.max + 1;
                }
                self.rest(now);
            }
        } else {
            round.answered = true;
            let (last, ended) = (round.last, round.size.is_none());
            if number == last {
                let sample = now.saturating_duration_since(round.at);
                self.round_trip = Some(RoundTrip::with(self.round_trip, sample));
            }
            if ended {
                self.rest(now);
            }
        }
    }

    fn search(&mut self, now: Instant) {
        self.confirmed = false;
        self.narrow = false;
        self.ceiling = self.max + 1;
        self.raise = now + RAISE;
        self.rest(now);
    }

    fn rest(&mut self, now: Instant) {
        self.round = None;
        self.rested = now;
    }

    /// What a round that is due comes to: it goes on, or ends.
    fn judge(&mut self, mut round: Round) -> Option<Round> {
        let size = round.size?;
        if !round.answered {
            round.silent = (round.silent + 1).min(BACKOFF_MAX);
            return Some(round);
        }
        round.silent = 0;
        round.lost += 1;
        let is_floor = size <= MTU_MIN;
        if round.lost < if is_floor { FLOOR_PROBES } else { PROBES } {
            return Some(round);
        }
        if size > self.mtu {
            self.ceiling = size;
        } else if is_floor {
            self.narrow = true;
            self.confirmed = true;
            self.ceiling = size;
        } else {
            // What fitted does so no longer. Anything may fit now, and is searched from below.
            self.mtu = MTU_MIN.min(self.max);
            self.confirmed = false;
            self.ceiling = self.max + 1;
        }
        None
    }

    /// Starts the round that is due, if one is.
    fn next(&mut self, now: Instant) -> Option<Probes> {
        if self.raise <= now {
            self.raise = now + RAISE;
            if self.narrow {
                self.confirmed = false;
            } else {
                self.ceiling = self.max + 1;
            }
        }
        let mut size = self.candidate();
        if size.is_none() {
            if self.look().is_none_or(|at| at > now) {
                return None;
            }
            self.confirmed &= self.sent < Sent::Large;
            self.sent = Sent::Nothing;
            size = self.candidate();
        }
        let round = Round {
            size,
            first: self.number,
            last: self.number,
            at: now,
            due: now,
            answered: false,
            lost: 0,
            silent: 0,
        };
        Some(self.send(round, now))
    }

    /// The size to be tried next, if there is one.
    fn candidate(&self) -> Option<usize> {
        // Most paths carry more than the least, which is tried once something larger has failed.
        if !self.confirmed && (self.mtu > MTU_MIN || self.ceiling <= self.max) {
            return Some(self.mtu);
        }
        let open = |size: &usize| *size > self.mtu && *size < self.ceiling;
        let inner = |link: usize| link.saturating_sub(self.overhead).min(self.max);
        let first = Some(inner(ETHERNET)).filter(open);
        first.or_else(|| {
            let sizes: Vec<_> = LINKS.into_iter().map(inner).filter(open).collect();
            sizes.get(sizes.len() / 2).copied()
        })
    }

    fn send(&mut self, mut round: Round, now: Instant) -> Probes {
        let small = self.number;
        self.number = small + 2;
        let timeout = self.round_trip.map_or(TIMEOUT, RoundTrip::timeout);
        round.last = small;
        round.at = now;
        round.due = now + timeout * (1 << round.silent);
        round.answered = false;
        let large = round.size.map(|size| (small + 1, size));
        self.round = Some(round);
        Probes { small, large }
    }
}

/// What UDP adds to an inner packet, in bytes: headers of IP and UDP, and WireGuard.
pub(crate) fn overhead(ipv4: bool) -> usize {
    let ip = if ipv4 { 20 } else { 40 };
    ip + 8 + OVERHEAD
}

/// An estimate of the round-trip time (RFC 6298, section 2).
#[derive(Clone, Copy, Debug)]
struct RoundTrip {
    smoothed: Duration,
    variation: Duration,
}

impl RoundTrip {
    fn with(before: Option<Self>, sample: Duration) -> Self {
        match before {
            None => Self {
                smoothed: sample,
                variation: sample / 2,
            },
            Some(before) => Self {
                smoothed: (before.smoothed * 7 + sample) / 8,
                variation: (before.variation * 3 + before.smoothed.abs_diff(sample)) / 4,
            },
        }
    }

    fn timeout(self) -> Duration {
        (self.smoothed + self.variation * 4).clamp(TIMEOUT_MIN, TIMEOUT_MAX)
    }
}

#[cfg(test)]
mod tests;
