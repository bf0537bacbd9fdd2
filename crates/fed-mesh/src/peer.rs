//! One peer of a router: its session, what waits for it, its counters.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use crate::config::{FOLLOW_HOLD, TELL_EVERY};
use crate::control::Control;
use crate::frame::{self, RouterId};
use crate::links::Links;
use crate::paths::{Paths, Sign};
use crate::told::Told;
use crate::width::{Width, overhead};
use crate::{
    ByPath, Content, DropReason, Drops, Event, OVERHEAD, Opened, Output, Path, PeerConfig,
    PeerStatus, PublicKey, QUEUE_PACKETS, ROOM_MIN, SILENT_AFTER, Session, TimeoutReason, Traffic,
};

/// So many addresses are remembered from which a peer has sent: by IPv4 and IPv6, before and after
/// it moved. No more are noted in [`FOLLOW_HOLD`], whatever the peer sends from.
const HEARD_AT_MAX: usize = 4;

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
    /// When something was last sent, or a keepalive could not be.
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

    /// Sends an inner packet, or keeps it for after the handshake.
    pub(crate) fn send_inner(&mut self, packet: &[u8], ctx: Context<'_>, out: &mut Output) {
        self.width.sent(packet.len());
        if self.queue.is_empty()
            && let Some(path) = self.paths.towards()
            && self.seal(packet, path, ctx, out)
        {
            self.paths.sent(false, ctx.now);
            self.counters.inner_sent.add(packet.len());
            return;
        }
        if !self.is_reachable(ctx) {
            self.count_drop(DropReason::NoEndpoint, 1);
            return;
        }
        if self.queue.len() == QUEUE_PACKETS {
            self.queue.pop_front();
            self.count_drop(DropReason::QueueFull, 1);
        }
        self.queue.push_back(packet.to_vec());
        self.settle(ctx, out);
    }

    /// Takes in a datagram that came by `path`, and returns the length of the inner packet that it
    /// may have held, which is then at the head of the output's room for packets.
    pub(crate) fn receive(
        &mut self,
        path: Path,
        datagram: &[u8],
        ctx: Context<'_>,
        out: &mut Output,
    ) -> Option<usize> {
        let now = ctx.now;
        let room = out.packet_room(datagram.len().max(ROOM_MIN));
        let Opened { content, completed } = match self.session.open(datagram, room, now) {
            Ok(opened) => opened,
            Err(reason) => {
                self.count_drop(reason, 1);
                return None;
            }
        };
        let control = match content {
            Content::Inner(length) => Control::read(out.next_packet(length)),
            Content::Malformed | Content::Keepalive | Content::Reply(_) | Content::Cookie => None,
        };
        let sign = match (&content, control) {
            (Content::Cookie, _) => None,
            (Content::Reply(_), _) if completed => Some(Sign::Answer),
            (Content::Reply(_), _) | (_, Some(_)) => Some(Sign::Try),
            (Content::Inner(_) | Content::Malformed | Content::Keepalive, None) => Some(Sign::Word),
        };
        if let Some(sign) = sign {
            self.hear(path, sign, path.overhead() + datagram.len(), ctx, out);
        }
        if completed {
            self.complete(path, ctx, out);
        }
        let inner = match content {
            Content::Inner(_) if control.is_some() => None,
            Content::Inner(length) => Some(length),
            Content::Reply(reply) => {
                self.transmit(&reply, path, ctx, out);
                None
            }
            Content::Malformed => {
                self.count_drop(DropReason::MalformedDecrypted, 1);
                None
            }
            Content::Keepalive | Content::Cookie => None,
        };
        if let Some(control) = control {
            self.obey(control, path, ctx, out);
        }
        if completed || (self.session.is_ready() && self.paths.is_worth(path, now)) {
            self.ping(path, ctx, out);
        }
        if !self.queue.is_empty() {
            if self.session.is_ready() {
                out.waiting = true;
            } else {
                self.initiate(ctx, out);
            }
        }
        self.publish(ctx);
        inner
    }

    fn complete(&mut self, path: Path, ctx: Context<'_>, out: &mut Output) {
        self.handshake = Some(ctx.now);
        self.counters.by_path.of(path.kind()).handshakes += 1;
        self.paths.connected(ctx.now);
        self.width.wake(ctx.now);
        let recent = |at: Instant| ctx.now.saturating_duration_since(at) < TELL_EVERY;
        if !self.handshake_told.is_some_and(recent) {
            self.handshake_told = Some(ctx.now);
            out.events.push_back(Event::HandshakeCompleted {
                peer: self.config.public_key,
                path,
            });
        }
    }

    fn obey(&mut self, control: Control, path: Path, ctx: Context<'_>, out: &mut Output) {
        self.paths.heard_control();
        match control {
            Control::Ping(number) => {
                // By the way it came. There are keys, or it could not have been read; those to
                // answer with may still be missing, and then the next ping is answered.
                self.seal(&Control::Pong(number).packet(), path, ctx, out);
            }
            Control::Pong(number) if Width::owns(number) => {
                let before = self.width.mtu();
                self.width.answered(number, ctx.now);
                self.measure(before, ctx, out);
            }
            Control::Pong(number) => {
                if self.paths.pong(number, ctx.now) {
                    self.moved(ctx, out);
                }
            }
        }
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
                if !self.seal(&Control::Ping(number).padded(length), path, ctx, out) {
                    self.width.sleep();
                }
            }
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

    /// Counts an inner packet that the router delivered.
    pub(crate) fn delivered(&mut self, bytes: usize) {
        self.counters.inner_received.add(bytes);
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
                Some(path) if self.seal(&[], path, ctx, out) => {}
                Some(_) | None => self.initiate(ctx, out),
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
        let deadlines = [session, keepalive, silence, path, width, told];
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
        }
    }

    /// Sends what waits, or sees to it that a handshake is under way for it.
    pub(crate) fn settle(&mut self, ctx: Context<'_>, out: &mut Output) {
        while let Some(packet) = self.queue.pop_front() {
            let path = self.paths.towards();
            if !path.is_some_and(|path| self.seal(&packet, path, ctx, out)) {
                self.queue.push_front(packet);
                self.initiate(ctx, out);
                return;
            }
            self.paths.sent(false, ctx.now);
            self.counters.inner_sent.add(packet.len());
        }
    }

    /// Starts a handshake, if the peer might be reached and none is under way.
    pub(crate) fn initiate(&mut self, ctx: Context<'_>, out: &mut Output) {
        let wanted = self.config.keepalive.is_some() || self.is_reachable(ctx);
        if wanted && let Some(datagram) = self.session.initiate(ctx.now) {
            self.paths.call(ctx.now);
            self.speak(&datagram, true, ctx, out);
        }
    }

    fn is_reachable(&self, ctx: Context<'_>) -> bool {
        self.paths.current().is_some()
            || self.paths.has_candidates()
            || !ctx.relays(self.config.public_key).is_empty()
    }

    /// Sends a message of the session by the current path, or by all there are if it asks for an
    /// answer and the current path gives none.
    fn speak(&mut self, datagram: &[u8], asks: bool, ctx: Context<'_>, out: &mut Output) {
        let current = self.paths.current();
        let targets = if asks && self.paths.is_doubtful() {
            let relays = ctx.relays(self.config.public_key);
            self.paths.everywhere(&relays)
        } else {
            current.into_iter().collect()
        };
        self.send_by(&targets, datagram, ctx, out);
        if asks && current.is_some() {
            self.paths.sent(true, ctx.now);
        }
    }

    fn send_by(&mut self, paths: &[Path], datagram: &[u8], ctx: Context<'_>, out: &mut Output) {
        for path in paths {
            self.transmit(datagram, *path, ctx, out);
        }
    }

    /// Asks whether a path works.
    fn ping(&mut self, path: Path, ctx: Context<'_>, out: &mut Output) {
        let number = self.paths.ping(path, ctx.now);
        if self.seal(&Control::Ping(number).packet(), path, ctx, out)
            && self.paths.current() == Some(path)
        {
            self.paths.sent(false, ctx.now);
        }
    }

    /// Encrypts a packet into the output, for `path`; `false` while there are no keys.
    fn seal(&mut self, inner: &[u8], path: Path, ctx: Context<'_>, out: &mut Output) -> bool {
        let length = (inner.len() + OVERHEAD).max(ROOM_MIN);
        let room = out.transmit_room(path.overhead() + length);
        let room = match path {
            Path::Udp(_) => room,
            Path::Relay(_) => frame::write(room, self.id, ctx.own),
        };
        match self.session.seal(inner, room, ctx.now) {
            None => false,
            Some(length) => {
                self.keep(path.overhead() + length, path, ctx, out);
                true
            }
        }
    }

    /// Sends a message of the session by `path`.
    fn transmit(&mut self, message: &[u8], path: Path, ctx: Context<'_>, out: &mut Output) {
        let length = path.overhead() + message.len();
        let room = out.transmit_room(length);
        let room = match path {
            Path::Udp(_) => room,
            Path::Relay(_) => frame::write(room, self.id, ctx.own),
        };
        room.copy_from_slice(message);
        self.keep(length, path, ctx, out);
    }

    /// Keeps what is at the head of the room for datagrams as one for `path`.
    fn keep(&mut self, length: usize, path: Path, ctx: Context<'_>, out: &mut Output) {
        let to = match path {
            Path::Udp(address) => Some(address),
            Path::Relay(via) => ctx.links().address(via),
        };
        let taken = self.paths.current() == Some(path);
        match to {
            Some(to) => {
                out.keep_transmit(to, length);
                self.counters.by_path.of(path.kind()).sent.add(length);
                if taken {
                    self.spoke = ctx.now;
                }
            }
            None => {
                self.count_drop(DropReason::NoRelay, 1);
                if taken {
                    self.paths.broken(ctx.now);
                }
            }
        }
    }

    /// Notes an authentic datagram of `bytes`.
    fn hear(&mut self, path: Path, sign: Sign, bytes: usize, ctx: Context<'_>, out: &mut Output) {
        let peer = self.config.public_key;
        self.counters.by_path.of(path.kind()).received.add(bytes);
        if self.silent {
            self.silent = false;
            out.events.push_back(Event::PeerReturned {
                peer,
                silence: self.silence(ctx.now),
            });
        }
        self.heard = Some(ctx.now);
        if let Path::Udp(at) = path {
            self.note(at, ctx);
        }
        if self.paths.hear(path, sign, ctx.now) {
            self.moved(ctx, out);
        }
    }

    /// Remembers where the peer was heard, unless it is somewhere else each time.
    fn note(&mut self, at: SocketAddr, ctx: Context<'_>) {
        if self.heard_at.iter().any(|(known, _)| *known == at) {
            return;
        }
        if self.heard_at.len() == HEARD_AT_MAX {
            let oldest = self.heard_at.back();
            let recent = |since: Instant| ctx.now.saturating_duration_since(since) < FOLLOW_HOLD;
            if oldest.is_some_and(|(_, since)| recent(*since)) {
                return;
            }
            self.heard_at.pop_back();
        }
        self.heard_at.push_front((at, ctx.now));
        let addresses: Vec<_> = self.heard_at.iter().map(|(at, _)| *at).collect();
        let mut links = ctx.links.write().unwrap_or_else(PoisonError::into_inner);
        links.set_heard(self.config.public_key, &addresses);
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

    fn silence_due(&self) -> Option<Instant> {
        (self.config.keepalive.is_some() && !self.silent)
            .then(|| self.heard.map_or(self.added, |heard| heard.max(self.added)) + SILENT_AFTER)
    }
}
