//! One peer of a router: its session, what waits for it, its counters.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use crate::config::CEASED_AFTER;
use crate::control::Control;
use crate::frame::RouterId;
use crate::links::Links;
use crate::paths::Paths;
use crate::told::Told;
use crate::width::{Width, overhead};
use crate::{
    ByPath, DropReason, Drops, Event, Output, Path, PeerConfig, PeerStatus, PublicKey,
    SILENT_AFTER, Session, TimeoutReason, Traffic,
};

mod hearing;
mod sending;

/// What a peer knows of the router that it belongs to, at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Context<'r> {
    pub(crate) own: RouterId,
    pub(crate) links: &'r RwLock<Links>,
    pub(crate) now: Instant,
}

impl Context<'_> {
    pub(crate) fn links(&self) -> RwLockReadGuard<'_, Links> {
        self.links.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The routers that might relay to `peer`.
    fn relays(&self, peer: PublicKey) -> Vec<PublicKey> {
        let links = self.links();
        let others = links.relays().iter().filter(|key| **key != peer);
        others.copied().collect()
    }
}

/// One peer.
pub(crate) struct Peer<S> {
    config: PeerConfig,
    id: RouterId,
    paths: Paths,
    /// Where other peers have been told that this one is reached straight.
    link: Option<SocketAddr>,
    /// Where it was heard and since when, the latest first, and other peers have been told of.
    heard_at: VecDeque<(SocketAddr, Instant)>,
    session: S,
    /// What has been told of the path that is taken.
    told: Told,
    /// Of the path that is taken.
    width: Width,
    queue: VecDeque<Vec<u8>>,
    counters: Counters,
    added: Instant,
    heard: Option<Instant>,
    /// When data last came, if it has not been asked since where more is.
    data: Option<Instant>,
    /// When something was last sent in a session, or a keepalive could not be.
    spoke: Instant,
    silent: bool,
    handshake: Option<Instant>,
    /// When one was last told of.
    handshake_told: Option<Instant>,
}

#[derive(Default)]
struct Counters {
    inner_sent: Traffic,
    inner_received: Traffic,
    by_path: ByPath,
    drops: Drops,
}

impl<S: Session> Peer<S> {
    /// `leads` says which of two routers gives way where both would follow each other. Inner
    /// packets have `mtu` bytes at most.
    pub(crate) fn new(
        config: PeerConfig,
        leads: bool,
        session: S,
        mtu: usize,
        now: Instant,
    ) -> Self {
        Self {
            width: Width::new(mtu, overhead(false), now),
            id: config.public_key.into(),
            paths: Paths::new(leads, &config.endpoints),
            link: None,
            heard_at: VecDeque::new(),
            told: Told::default(),
            config,
            session,
            queue: VecDeque::new(),
            counters: Counters::default(),
            added: now,
            heard: None,
            data: None,
            spoke: now,
            silent: false,
            handshake: None,
            handshake_told: None,
        }
    }

    pub(crate) fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// Takes a new configuration of the same peer, and keeps the session and the path. Endpoints
    /// that are new are tried, unless there is a direct path that works.
    pub(crate) fn reconfigure(&mut self, config: PeerConfig, ctx: Context<'_>, out: &mut Output) {
        if config.keepalive.is_some() && self.config.keepalive.is_none() {
            // Silence counts from the moment it is watched.
            self.added = ctx.now;
            self.spoke = ctx.now;
        }
        self.paths.set_candidates(&config.endpoints, ctx.now);
        self.config = config;
        self.greet(ctx, out);
        self.seek(ctx, out);
    }

    /// Opens the session if the peer is to be kept in touch with.
    pub(crate) fn greet(&mut self, ctx: Context<'_>, out: &mut Output) {
        if self.config.keepalive.is_some() && !self.session.is_ready() {
            self.initiate(ctx, out);
        }
    }

    /// The largest inner packet that fits the path, in bytes.
    pub(crate) fn mtu(&self) -> usize {
        self.width.mtu()
    }

    /// Sends the pings that the width of the path is measured by, where some are due, and tells if
    /// it has changed since it was `before`.
    fn measure(&mut self, before: usize, ctx: Context<'_>, out: &mut Output) {
        if let Some(path) = self.paths.current()
            && let Some(probes) = self.width.poll(ctx.now)
        {
            // The small one first, so that it is not sent in one piece with the large one.
            let pings = std::iter::once((probes.small, 0)).chain(probes.large);
            for (number, length) in pings {
                let ping = Control::Ping(number).padded(length);
                if self.seal(&ping, path, ctx, out).is_none() {
                    self.width.sleep();
                }
            }
        }
        let was_narrow = self.paths.is_narrow();
        self.paths.set_narrow(self.width.is_narrow(), ctx.now);
        if let Some(path) = self.paths.current()
            && self.paths.is_narrow()
            && !was_narrow
        {
            let peer = self.config.public_key;
            out.events.push_back(Event::PathNarrow { peer, path });
        }
        let mtu = self.width.mtu();
        if mtu != before {
            let peer = self.config.public_key;
            out.events.push_back(Event::PathMtuChanged { peer, mtu });
        }
    }

    /// When the width of the path is to be measured. Who answers no pings is not asked.
    fn measure_due(&self) -> Option<Instant> {
        let due = self.width.deadline();
        due.filter(|_| self.paths.speaks() && self.paths.current().is_some())
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason, count: usize) {
        self.counters.drops.add(reason, count as u64);
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, ctx: Context<'_>, out: &mut Output) {
        let now = ctx.now;
        if self.session.deadline().is_some_and(|due| due <= now) {
            let tick = self.session.tick(now);
            if let Some(datagram) = tick.datagram {
                self.speak(&datagram, tick.asks, ctx, out);
            }
            if tick.given_up {
                self.count_drop(DropReason::HandshakeGivenUp, self.queue.len());
                self.queue.clear();
                self.paths.rest();
                self.greet(ctx, out);
            }
            self.settle(ctx, out);
        }
        if self.keepalive_due().is_some_and(|due| due <= now) {
            // Without a path or in the middle of a handshake there is nothing to send, and the
            // next look is a keepalive away.
            self.spoke = now;
            match self.paths.current() {
                Some(path) if self.session.is_ready() && self.paths.speaks() => {
                    self.ping(path, ctx, out);
                }
                Some(path) if self.seal(&[], path, ctx, out).is_some() => {}
                Some(_) | None => self.initiate(ctx, out),
            }
        }
        if self.ceased_due().is_some_and(|due| due <= now) {
            self.data = None;
            if let Some(path) = self.paths.current()
                && self.paths.speaks()
            {
                self.ping(path, ctx, out);
            }
        }
        self.seek(ctx, out);
        // Another path is measured anew, and one that cannot be pinged is in doubt.
        while self.measure_due().is_some_and(|due| due <= now) {
            self.measure(self.width.mtu(), ctx, out);
            self.seek(ctx, out);
        }
        if self.told.due().is_some_and(|due| due <= now) {
            self.tell(now, out);
        }
        if self.silence_due().is_some_and(|due| due <= now) {
            self.silent = true;
            out.events.push_back(Event::PeerSilent {
                peer: self.config.public_key,
                silence: self.silence(now),
            });
        }
        self.publish(ctx);
    }

    /// Tries the paths that are to be tried now.
    fn seek(&mut self, ctx: Context<'_>, out: &mut Output) {
        while self.paths.deadline().is_some_and(|due| due <= ctx.now) {
            let relays = ctx.relays(self.config.public_key);
            let round = self.paths.round(&relays, ctx.now);
            if round.moved {
                self.moved(ctx, out);
            }
            let relays = round.targets.iter().filter_map(|path| match path {
                Path::Relay(via) => Some(*via),
                Path::Udp(_) => None,
            });
            out.tried.extend(relays);
            if self.session.is_ready() {
                for path in &round.targets {
                    self.ping(*path, ctx, out);
                }
                if round.handshake
                    && let Some(datagram) = self.session.initiate(ctx.now)
                {
                    self.send_by(&round.targets, &datagram, ctx, out);
                }
            } else if !round.targets.is_empty()
                && let Some(datagram) = self.session.retry(ctx.now)
            {
                self.send_by(&round.targets, &datagram, ctx, out);
            }
        }
    }

    /// The next moment at which [`Self::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Option<(Instant, TimeoutReason)> {
        let session = self
            .session
            .deadline()
            .map(|at| (at, TimeoutReason::Session));
        let keepalive = self
            .keepalive_due()
            .map(|at| (at, TimeoutReason::Keepalive));
        let silence = self.silence_due().map(|at| (at, TimeoutReason::Silence));
        let path = self.paths.deadline().map(|at| (at, TimeoutReason::Path));
        let width = self.measure_due().map(|at| (at, TimeoutReason::Path));
        let told = self.told.due().map(|at| (at, TimeoutReason::Path));
        let ceased = self.ceased_due().map(|at| (at, TimeoutReason::Path));
        let deadlines = [session, keepalive, ceased, silence, path, width, told];
        deadlines.into_iter().flatten().min()
    }

    pub(crate) fn status(&self, relayed: Traffic, now: Instant) -> PeerStatus {
        let since = |at: Instant| now.saturating_duration_since(at);
        PeerStatus {
            public_key: self.config.public_key,
            endpoint: self.paths.towards().and_then(|path| path.address()),
            path: self.paths.current(),
            rtt: self.width.round_trip().or(self.paths.rtt()),
            path_mtu: self.width.mtu(),
            relayed,
            allowed_ips: self.config.allowed_ips.clone(),
            connected: self.session.is_ready(),
            by_path: self.counters.by_path,
            inner_sent: self.counters.inner_sent,
            inner_received: self.counters.inner_received,
            drops: self.counters.drops,
            queued: self.queue.len(),
            last_handshake: self.handshake.map(since),
            last_heard: self.heard.map(since),
            unanswered: self.paths.unanswered().map(since),
            narrow: self.paths.narrow().map(since),
        }
    }

    /// Another path is taken, whose width is measured anew.
    fn moved(&mut self, ctx: Context<'_>, out: &mut Output) {
        if let Some(to) = self.paths.current() {
            let last_hop = match to {
                Path::Udp(address) => Some(address),
                Path::Relay(via) => ctx.links().address(via),
            };
            let ipv4 = last_hop.is_some_and(|address| address.is_ipv4());
            self.width.moved(to.overhead() + overhead(ipv4), ctx.now);
            self.tell(ctx.now, out);
        }
    }

    /// Tells which path is taken, where it is time to.
    fn tell(&mut self, now: Instant, out: &mut Output) {
        if let Some(to) = self.paths.current()
            && let Some(from) = self.told.take(to, now)
        {
            let peer = self.config.public_key;
            out.events.push_back(Event::PathChanged { peer, from, to });
        }
    }

    /// Lets the other peers know whether this one can relay for them, and be relayed to.
    fn publish(&mut self, ctx: Context<'_>) {
        let ready = self.session.is_ready();
        let link = self.paths.link(ctx.now).filter(|_| ready);
        if link != self.link {
            self.link = link;
            let mut links = ctx.links.write().unwrap_or_else(PoisonError::into_inner);
            links.set(self.config.public_key, link);
        }
    }

    fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard.unwrap_or(self.added))
    }

    fn keepalive_due(&self) -> Option<Instant> {
        self.config
            .keepalive
            .map(|keepalive| self.spoke + keepalive)
    }

    fn ceased_due(&self) -> Option<Instant> {
        self.data.map(|at| at + CEASED_AFTER)
    }

    fn silence_due(&self) -> Option<Instant> {
        (self.config.keepalive.is_some() && !self.silent)
            .then(|| self.heard.map_or(self.added, |heard| heard.max(self.added)) + SILENT_AFTER)
    }
}
