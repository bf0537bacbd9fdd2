//! The paths to one peer: which there may be, which one is taken, and when others are tried.
//!
//! This is a state machine without a session: it is told what was sent and what came by which path,
//! and says which paths to try now. docs/mesh.md tells the rules and where their times come from.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::PublicKey;
use crate::config::{
    CANDIDATES_MAX, DOUBT_AFTER, FOLLOW_HOLD, LOST_AFTER, RELAYS_PER_ROUND, RETURN_HOLD,
    SEEK_EVERY, SEEK_ROUNDS, UPGRADE_EVERY,
};
use crate::path::{Path, canonical};

/// Pings that may be without an answer at a time; beyond it the oldest is forgotten.
const PINGS: usize = 64;

/// No path that comes up by itself is asked after so many pings within [`SEEK_EVERY`]: who speaks
/// from everywhere would have probes sent to everybody. It is more than a round of ours takes.
const UNASKED: usize = 16;

/// After this long a ping will not be answered any more.
const PING_LIFE: Duration = Duration::from_secs(10);

/// In this round of doubt the path that answered best is taken instead.
const GIVE_UP_ROUND: u32 = 3;

/// In this round of doubt a handshake is tried too: the peer may have lost its session.
const HANDSHAKE_ROUND: u32 = 5;

/// What an authentic datagram says about the path on which it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The peer has chosen this path for what it sends.
    Word,
    /// The peer tries this path.
    Try,
    /// The peer answers what was sent by this path: it works in both directions.
    Answer,
}

/// The paths to one peer.
#[derive(Debug)]
pub(crate) struct Paths {
    /// Of two routers the one with the smaller key leads, where both would follow each other.
    leads: bool,
    candidates: Vec<SocketAddr>,
    current: Option<Path>,
    /// When something last came by the current path that the peer did not only try.
    heard: Option<Instant>,
    /// When the first datagram went out by the current path that nothing has come back for.
    unanswered: Option<Instant>,
    /// The path that was left last.
    left: Option<(Path, Instant)>,
    /// The address by which the peer was last reached straight. A peer behind a symmetric NAT has
    /// no other that could be tried.
    last: Option<SocketAddr>,
    /// Whether the peer answers pings.
    speaks: bool,
    /// Another path that has answered since the current one is in doubt.
    proven: Option<Path>,
    pings: VecDeque<Ping>,
    number: u64,
    seek: Option<Seek>,
    /// Smoothed, of the current path.
    rtt: Option<Duration>,
    relay_turn: usize,
    /// Since when the current path is known not to carry large packets.
    narrow: Option<Instant>,
    /// The address that the peer has chosen last, if it is to be taken once it has answered.
    chosen: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Ping {
    number: u64,
    path: Path,
    sent: Instant,
    /// Whether it went by another path than the one that was taken, and so was as long as a probe.
    probes: bool,
}

impl Ping {
    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.sent) < SEEK_EVERY
    }
}

/// A series of rounds in which paths are tried.
#[derive(Clone, Copy, Debug)]
struct Seek {
    why: Why,
    round: u32,
    next: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// There is no session.
    Call,
    /// The current path does not answer.
    Doubt,
    /// A better path may open.
    Upgrade,
}

/// What to do in a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Round {
    /// Where to send something that asks for an answer.
    pub(crate) targets: Vec<Path>,
    /// Whether to try a handshake even though there is a session.
    pub(crate) handshake: bool,
    /// Whether the path was given up for another.
    pub(crate) moved: bool,
}

impl Paths {
    pub(crate) fn new(leads: bool, candidates: &[SocketAddr]) -> Self {
        Self {
            leads,
            candidates: distinct(candidates),
            current: None,
            heard: None,
            unanswered: None,
            left: None,
            last: None,
            speaks: false,
            proven: None,
            pings: VecDeque::new(),
            number: 0,
            seek: None,
            rtt: None,
            relay_turn: 0,
            narrow: None,
            chosen: None,
        }
    }

    /// The path that is taken, once something has come by it.
    pub(crate) fn current(&self) -> Option<Path> {
        self.current
    }

    /// Where to send: by the current path, or before anything has come to the best candidate.
    pub(crate) fn towards(&self) -> Option<Path> {
        let first = || self.candidates.first().map(|at| Path::Udp(*at));
        self.current.or_else(first)
    }

    /// Whether there is a direct path to try.
    pub(crate) fn has_candidates(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// The current path's smoothed round-trip time.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Whether the peer answers pings.
    pub(crate) fn speaks(&self) -> bool {
        self.speaks
    }

    /// Since when the current path is known not to carry large packets.
    pub(crate) fn narrow(&self) -> Option<Instant> {
        self.narrow
    }

    pub(crate) fn is_narrow(&self) -> bool {
        self.narrow.is_some()
    }

    /// Takes in whether the current path carries large packets. Any other path is better than one
    /// that does not, and is looked for.
    pub(crate) fn set_narrow(&mut self, narrow: bool, now: Instant) {
        if narrow != self.is_narrow() {
            self.narrow = narrow.then_some(now);
            if self.doubt_round().is_none() {
                self.settle(now);
            }
        }
    }

    /// When the first datagram went out by the current path that nothing has come back for.
    pub(crate) fn unanswered(&self) -> Option<Instant> {
        self.unanswered.filter(|_| self.current.is_some())
    }

    /// Where the peer is reached straight, unless that has not worked for long.
    pub(crate) fn link(&self, now: Instant) -> Option<SocketAddr> {
        let address = self.current?.address()?;
        (!self.unanswered_for(LOST_AFTER, now)).then_some(address)
    }

    /// Takes other candidates; whether they are new ones, worth a try.
    pub(crate) fn set_candidates(&mut self, candidates: &[SocketAddr], now: Instant) -> bool {
        let candidates = distinct(candidates);
        let fresh = candidates.iter().any(|c| !self.candidates.contains(c));
        self.candidates = candidates;
        if fresh {
            match self.seek {
                // What has been given up is not asked again first.
                Some(seek) if seek.why == Why::Doubt && seek.round > GIVE_UP_ROUND => {
                    let round = GIVE_UP_ROUND + 1;
                    let next = now;
                    self.seek = Some(Seek {
                        round,
                        next,
                        ..seek
                    });
                }
                Some(seek) => self.seek(seek.why, now),
                None if self.may_improve() => {
                    self.seek(Why::Upgrade, now);
                }
                None => {}
            }
        }
        fresh
    }

    /// A handshake has begun, and its first message goes everywhere: more are to follow.
    pub(crate) fn call(&mut self, now: Instant) {
        if self.seek.is_none_or(|seek| seek.why == Why::Upgrade) {
            self.seek(Why::Call, now + SEEK_EVERY);
        }
    }

    /// The handshake was given up.
    pub(crate) fn rest(&mut self) {
        self.seek = None;
        self.unanswered = None;
    }

    /// There is a session, so no more calls.
    pub(crate) fn connected(&mut self, now: Instant) {
        if self.seek.is_some_and(|seek| seek.why == Why::Call) {
            self.settle(now);
        }
    }

    /// Whether what asks for an answer should go by all paths, not by the current one alone: that
    /// has left a ping without an answer.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.current.is_none() || self.doubt_round().is_some_and(|round| round > 1)
    }

    /// Notes that something went out by the current path; `asks` tells whether it must be answered
    /// by any router.
    pub(crate) fn sent(&mut self, asks: bool, now: Instant) {
        if self.speaks || asks {
            self.unanswered.get_or_insert(now);
        }
    }

    /// Notes that nothing can be sent by the current path.
    pub(crate) fn broken(&mut self, now: Instant) {
        let since = now.checked_sub(self.doubt_after()).unwrap_or(now);
        self.unanswered = Some(self.unanswered.map_or(since, |at| at.min(since)));
    }

    /// Notes an authentic datagram; whether another path is taken since.
    pub(crate) fn hear(&mut self, path: Path, sign: Sign, now: Instant) -> bool {
        let Some(current) = self.current else {
            // Who calls is answered by the way it came, which may be dead in that direction: we call
            // on, by all others too.
            let call = self.seek.filter(|seek| seek.why == Why::Call);
            self.go_to(path, now);
            if sign == Sign::Try && call.is_some() {
                self.seek = call;
            }
            return true;
        };
        if path == current {
            // What comes does not tell that what goes arrives: a path in doubt is to answer.
            let works = match sign {
                Sign::Answer => true,
                Sign::Word => !self.speaks || self.doubt_round().is_none(),
                Sign::Try => !self.speaks,
            };
            if sign != Sign::Try {
                self.heard = Some(now);
            }
            if works {
                self.unanswered = None;
                self.proven = None;
                if self.doubt_round().is_some() {
                    self.settle(now);
                }
            }
            return false;
        }
        let follow = match sign {
            Sign::Answer if self.is_better(path) || self.is_chosen(path) => true,
            // Without a session all have been called, and this one answers first.
            Sign::Answer if self.seek.is_some_and(|seek| seek.why == Why::Call) => true,
            Sign::Answer => {
                if self.is_doubtful() {
                    self.proven.get_or_insert(path);
                }
                self.is_given_up()
            }
            Sign::Word if self.follows(current, path, now) => {
                // Whoever is beside the way can be the first to deliver one packet, from anywhere.
                let asks = self.speaks && path.is_direct();
                self.chosen = path.address().filter(|_| asks);
                !asks
            }
            Sign::Word => false,
            Sign::Try => false,
        };
        if follow {
            self.go_to(path, now);
        }
        follow
    }

    /// Whether a path that the peer tries, or has chosen, is worth a ping of our own: it may be
    /// better than the current one.
    pub(crate) fn is_worth(&self, path: Path, now: Instant) -> bool {
        // Asked for each datagram: what most are turned down by comes first.
        if Some(path) == self.current {
            return false;
        }
        if !(self.is_better(path) || self.is_chosen(path) || self.is_doubtful()) {
            return false;
        }
        let recent = self.pings.iter().rev();
        let recent = recent.take_while(|ping| ping.is_recent(now)).count();
        recent < UNASKED && !self.is_asked(path, now)
    }

    /// Whether a ping has just gone by `path`.
    pub(crate) fn is_asked(&self, path: Path, now: Instant) -> bool {
        let latest = self.pings.iter().rev();
        let mut recent = latest.take_while(|ping| ping.is_recent(now));
        recent.any(|ping| ping.path == path)
    }

    /// The number for a ping by `path`.
    pub(crate) fn ping(&mut self, path: Path, now: Instant) -> u64 {
        let dead = |ping: &Ping| now.saturating_duration_since(ping.sent) >= PING_LIFE;
        while self.pings.front().is_some_and(dead) || self.pings.len() == PINGS {
            self.pings.pop_front();
        }
        self.number += 1;
        self.pings.push_back(Ping {
            number: self.number,
            path,
            sent: now,
            probes: self.current != Some(path),
        });
        self.number
    }

    /// Notes that the peer knows pings.
    pub(crate) fn heard_control(&mut self) {
        self.speaks = true;
    }

    /// Notes the answer to a ping, which proves the path of that ping; whether another path is taken
    /// since.
    pub(crate) fn pong(&mut self, number: u64, now: Instant) -> bool {
        let position = self.pings.iter().position(|ping| ping.number == number);
        let Some(ping) = position.and_then(|position| self.pings.remove(position)) else {
            return false;
        };
        // Of a path that has been left meanwhile it does not say that packets pass.
        if !ping.probes && self.current != Some(ping.path) {
            return false;
        }
        let rtt = now.saturating_duration_since(ping.sent);
        let moved = self.hear(ping.path, Sign::Answer, now);
        if self.current == Some(ping.path) {
            // As TCP smooths it (RFC 6298, section 2).
            self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        }
        moved
    }

    /// When [`Self::round`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let doubt = self.unanswered.map(|at| at + self.doubt_after());
        match self.seek {
            Some(seek) if seek.why == Why::Upgrade => {
                doubt.map_or(Some(seek.next), |at| Some(at.min(seek.next)))
            }
            Some(seek) => Some(seek.next),
            None => doubt.filter(|_| self.current.is_some()),
        }
    }

    /// Goes on trying; `relays` are the routers that might relay.
    pub(crate) fn round(&mut self, relays: &[PublicKey], now: Instant) -> Round {
        if self.seek.is_none_or(|seek| seek.why == Why::Upgrade)
            && self.current.is_some()
            && self.unanswered_for(self.doubt_after(), now)
        {
            self.seek(Why::Doubt, now);
        }
        let Some(mut seek) = self.seek.filter(|seek| seek.next <= now) else {
            return Round::default();
        };
        if seek.why == Why::Doubt
            && seek.round >= GIVE_UP_ROUND
            && let Some(path) = self.proven.take()
        {
            self.go_to(path, now);
            return Round {
                moved: true,
                ..Round::default()
            };
        }
        let round = Round {
            targets: self.targets(seek, relays),
            handshake: seek.why == Why::Doubt && seek.round == HANDSHAKE_ROUND,
            moved: false,
        };
        seek.round += 1;
        self.seek = self.pause(seek).map(|pause| Seek {
            next: now + pause,
            ..seek
        });
        round
    }

    /// All paths to try at once, for what asks for an answer.
    pub(crate) fn everywhere(&mut self, relays: &[PublicKey]) -> Vec<Path> {
        let mut targets = self.straight();
        targets.extend(self.next_relays(relays));
        targets.extend(self.current.filter(|path| !targets.contains(path)));
        targets
    }

    fn targets(&mut self, seek: Seek, relays: &[PublicKey]) -> Vec<Path> {
        match (seek.why, seek.round) {
            (Why::Upgrade, _) if self.is_narrow() => {
                let mut targets = self.everywhere(relays);
                targets.retain(|path| Some(*path) != self.current);
                targets
            }
            (Why::Upgrade, _) => self.straight(),
            (Why::Doubt, 0) => self.current.into_iter().collect(),
            // Of a message that comes by several ways a peer answers the first alone, and the way
            // back of that one may be dead.
            (Why::Call, round) if round > 0 && round.is_multiple_of(2) => {
                let mut targets = self.everywhere(relays);
                keep_family(&mut targets, round.is_multiple_of(4));
                targets
            }
            (Why::Call | Why::Doubt, _) => self.everywhere(relays),
        }
    }

    fn straight(&self) -> Vec<Path> {
        let mut addresses = self.candidates.clone();
        for other in [self.last, self.chosen].into_iter().flatten() {
            if !addresses.contains(&other) {
                addresses.push(other);
            }
        }
        addresses.into_iter().map(Path::Udp).collect()
    }

    /// A few relays, others each time.
    fn next_relays(&mut self, relays: &[PublicKey]) -> Vec<Path> {
        let count = relays.len().min(RELAYS_PER_ROUND);
        let turn = self.relay_turn;
        self.relay_turn = turn.wrapping_add(count);
        let indices = (turn..turn + count).map(|index| index % relays.len());
        indices.map(|index| Path::Relay(relays[index])).collect()
    }

    fn pause(&self, seek: Seek) -> Option<Duration> {
        let many = seek.round >= SEEK_ROUNDS;
        match seek.why {
            Why::Call | Why::Upgrade if !many => Some(SEEK_EVERY),
            Why::Doubt if !many => Some(SEEK_EVERY.max(self.rtt.unwrap_or_default() * 2)),
            // From here on the protocol retries.
            Why::Call => None,
            Why::Doubt | Why::Upgrade => Some(UPGRADE_EVERY),
        }
    }

    /// Whether the peer's choice of `path` is followed.
    fn follows(&self, current: Path, path: Path, now: Instant) -> bool {
        if self.is_better(path) {
            return true;
        }
        match path.kind().cmp(&current.kind()) {
            Ordering::Greater => true,
            // Each may have a relay of its own.
            Ordering::Equal if !path.is_direct() => self.is_doubtful(),
            Ordering::Equal => self.left.is_none_or(|(left, at)| {
                // Two that each follow the other would change places for ever: one of them does
                // not return to what it has just left.
                let returns = self.leads && left == path;
                let hold = if returns { RETURN_HOLD } else { FOLLOW_HOLD };
                now.saturating_duration_since(at) >= hold
            }),
            Ordering::Less => self
                .heard
                .is_none_or(|heard| now.saturating_duration_since(heard) >= self.doubt_after()),
        }
    }

    /// Whether `path`, another than the current one, is better if it works.
    fn is_better(&self, path: Path) -> bool {
        let better = |current: Path| path.kind() > current.kind();
        self.is_narrow() || self.current.is_none_or(better)
    }

    /// Whether a better path than the current one may be found.
    fn may_improve(&self) -> bool {
        let best = |path: Path| path.is_best() && !self.is_narrow();
        self.current.is_some_and(|path| !best(path))
    }

    fn is_chosen(&self, path: Path) -> bool {
        self.chosen.is_some() && self.chosen == path.address()
    }

    /// Whether the current path has been asked often enough.
    fn is_given_up(&self) -> bool {
        self.doubt_round()
            .is_some_and(|round| round > GIVE_UP_ROUND)
    }

    /// The next round of doubt.
    fn doubt_round(&self) -> Option<u32> {
        let doubt = self.seek.filter(|seek| seek.why == Why::Doubt);
        doubt.map(|seek| seek.round)
    }

    fn go_to(&mut self, path: Path, now: Instant) {
        self.left = self.current.map(|old| (old, now));
        self.current = Some(path);
        self.last = path.address().or(self.last);
        self.heard = Some(now);
        self.unanswered = None;
        self.proven = None;
        self.rtt = None;
        self.narrow = None;
        self.chosen = None;
        self.settle(now);
    }

    /// The current path works: all that is left to do is to look for a better one.
    fn settle(&mut self, now: Instant) {
        self.seek = None;
        if self.may_improve() {
            self.seek(Why::Upgrade, now);
        }
    }

    fn seek(&mut self, why: Why, now: Instant) {
        self.seek = Some(Seek {
            why,
            round: 0,
            next: now,
        });
    }

    fn unanswered_for(&self, duration: Duration, now: Instant) -> bool {
        self.unanswered
            .is_some_and(|at| now.saturating_duration_since(at) >= duration)
    }

    fn doubt_after(&self) -> Duration {
        DOUBT_AFTER + self.rtt.unwrap_or_default() * 2
    }
}

/// Leaves out the addresses of the other family, where there are both.
fn keep_family(targets: &mut Vec<Path>, ipv6: bool) {
    let is_other = |path: &Path| path.address().is_some_and(|at| at.is_ipv6() != ipv6);
    let straight = |path: &&Path| path.is_direct();
    if !targets.iter().filter(straight).all(is_other) {
        targets.retain(|path| !is_other(path));
    }
}

/// The first of the candidates, each once; nothing can be sent to port 0. Where there are many, half
/// of the places are for IPv6 and half for IPv4, as far as there are so many of each.
fn distinct(candidates: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut known = Vec::new();
    let sendable = candidates.iter().filter(|candidate| candidate.port() != 0);
    for candidate in sendable.copied().map(canonical) {
        if !known.contains(&candidate) {
            known.push(candidate);
        }
    }
    let reserved = |ipv6| {
        let family = known.iter().filter(|at| at.is_ipv6() == ipv6);
        family.count().min(CANDIDATES_MAX / 2)
    };
    let (mut ipv4, mut ipv6) = (
        CANDIDATES_MAX - reserved(true),
        CANDIDATES_MAX - reserved(false),
    );
    known.retain(|at| {
        let places = if at.is_ipv6() { &mut ipv6 } else { &mut ipv4 };
        let left = places.checked_sub(1);
        *places = left.unwrap_or_default();
        left.is_some()
    });
    known
}

#[cfg(test)]
mod tests;
