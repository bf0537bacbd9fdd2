//! One peer of a router: its session, what waits for it, its counters.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use crate::{
    Content, DropReason, Drops, Event, OVERHEAD, Opened, Output, PeerConfig, PeerStatus,
    QUEUE_PACKETS, ROOM_MIN, SILENT_AFTER, Session, TimeoutReason, Traffic,
};

/// One peer.
pub(crate) struct Peer<S> {
    config: PeerConfig,
    endpoint: Option<SocketAddr>,
    session: S,
    queue: VecDeque<Vec<u8>>,
    counters: Counters,
    added: Instant,
    heard: Option<Instant>,
    /// When something was last sent, or a keepalive could not be.
    spoke: Instant,
    silent: bool,
    handshake: Option<Instant>,
}

#[derive(Default)]
struct Counters {
    inner_sent: Traffic,
    inner_received: Traffic,
    sent_bytes: u64,
    received_bytes: u64,
    drops: Drops,
    handshakes: u64,
}

impl<S: Session> Peer<S> {
    pub(crate) fn new(config: PeerConfig, session: S, now: Instant) -> Self {
        Self {
            endpoint: config.endpoint.map(canonical),
            config,
            session,
            queue: VecDeque::new(),
            counters: Counters::default(),
            added: now,
            heard: None,
            spoke: now,
            silent: false,
            handshake: None,
        }
    }

    pub(crate) fn config(&self) -> &PeerConfig {
        &self.config
    }

    /// Takes a new configuration of the same peer, and keeps the session. A peer that roamed is
    /// called back only by an endpoint that differs from the one configured before.
    pub(crate) fn reconfigure(&mut self, config: PeerConfig, now: Instant) {
        if config.endpoint != self.config.endpoint
            && let Some(endpoint) = config.endpoint
        {
            self.endpoint = Some(canonical(endpoint));
        }
        if config.keepalive.is_some() && self.config.keepalive.is_none() {
            // Silence counts from the moment it is watched.
            self.added = now;
            self.spoke = now;
        }
        self.config = config;
    }

    /// Opens the session if the peer is to be kept in touch with.
    pub(crate) fn greet(&mut self, now: Instant, out: &mut Output) {
        if self.config.keepalive.is_some() && !self.session.is_ready() {
            self.initiate(now, out);
        }
    }

    /// Sends an inner packet, or keeps it for after the handshake.
    pub(crate) fn send_inner(&mut self, packet: &[u8], now: Instant, out: &mut Output) {
        if self.endpoint.is_none() {
            self.count_drop(DropReason::NoEndpoint, 1);
            return;
        }
        if self.queue.is_empty() && self.seal(packet, now, out) {
            self.counters.inner_sent.add(packet.len());
            return;
        }
        if self.queue.len() == QUEUE_PACKETS {
            self.queue.pop_front();
            self.count_drop(DropReason::QueueFull, 1);
        }
        self.queue.push_back(packet.to_vec());
        self.settle(now, out);
    }

    /// Takes a datagram in, and returns the length of the inner packet that it may have held, which
    /// is then at the head of the output's room for packets.
    pub(crate) fn receive(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Option<usize> {
        let room = out.packet_room(datagram.len().max(ROOM_MIN));
        let Opened { content, completed } = match self.session.open(datagram, room, now) {
            Ok(opened) => opened,
            Err(reason) => {
                self.count_drop(reason, 1);
                return None;
            }
        };
        if content != Content::Cookie {
            self.hear(from, datagram.len(), now, out);
        }
        if completed {
            self.handshake = Some(now);
            self.counters.handshakes += 1;
            out.events.push_back(Event::HandshakeCompleted {
                peer: self.config.public_key,
                endpoint: from,
            });
        }
        let inner = match content {
            Content::Inner(length) => Some(length),
            Content::Reply(reply) => {
                self.transmit(&reply, now, out);
                None
            }
            Content::Malformed => {
                self.count_drop(DropReason::MalformedDecrypted, 1);
                None
            }
            Content::Keepalive | Content::Cookie => None,
        };
        if !self.queue.is_empty() {
            if self.session.is_ready() {
                out.waiting = true;
            } else {
                self.initiate(now, out);
            }
        }
        inner
    }

    /// Counts an inner packet that the router delivered.
    pub(crate) fn delivered(&mut self, bytes: usize) {
        self.counters.inner_received.add(bytes);
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason, count: usize) {
        self.counters.drops.add(reason, count as u64);
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant, out: &mut Output) {
        if self.session.deadline().is_some_and(|due| due <= now) {
            let tick = self.session.tick(now);
            if let Some(datagram) = tick.datagram {
                self.transmit(&datagram, now, out);
            }
            if tick.given_up {
                self.count_drop(DropReason::HandshakeGivenUp, self.queue.len());
                self.queue.clear();
                self.greet(now, out);
            }
            self.settle(now, out);
        }
        if self.keepalive_due().is_some_and(|due| due <= now) {
            // Without an endpoint or in the middle of a handshake there is nothing to send, and
            // the next look is a keepalive away.
            self.spoke = now;
            if !self.seal(&[], now, out) {
                self.initiate(now, out);
            }
        }
        if self.silence_due().is_some_and(|due| due <= now) {
            self.silent = true;
            out.events.push_back(Event::PeerSilent {
                peer: self.config.public_key,
                silence: self.silence(now),
            });
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
        [session, keepalive, silence].into_iter().flatten().min()
    }

    pub(crate) fn status(&self, now: Instant) -> PeerStatus {
        let since = |at: Instant| now.saturating_duration_since(at);
        PeerStatus {
            public_key: self.config.public_key,
            endpoint: self.endpoint,
            allowed_ips: self.config.allowed_ips.clone(),
            connected: self.session.is_ready(),
            sent_bytes: self.counters.sent_bytes,
            received_bytes: self.counters.received_bytes,
            inner_sent: self.counters.inner_sent,
            inner_received: self.counters.inner_received,
            drops: self.counters.drops,
            queued: self.queue.len(),
            handshakes: self.counters.handshakes,
            last_handshake: self.handshake.map(since),
            last_heard: self.heard.map(since),
        }
    }

    /// Sends what waits, or sees to it that a handshake is under way for it.
    pub(crate) fn settle(&mut self, now: Instant, out: &mut Output) {
        while let Some(packet) = self.queue.pop_front() {
            if !self.seal(&packet, now, out) {
                self.queue.push_front(packet);
                self.initiate(now, out);
                return;
            }
            self.counters.inner_sent.add(packet.len());
        }
    }

    /// Encrypts a packet into the output; `false` while there are no keys. Without an endpoint it
    /// is lost.
    fn seal(&mut self, inner: &[u8], now: Instant, out: &mut Output) -> bool {
        let room = out.transmit_room((inner.len() + OVERHEAD).max(ROOM_MIN));
        let Some(length) = self.session.seal(inner, room, now) else {
            return false;
        };
        if let Some(to) = self.endpoint {
            out.keep_transmit(to, length);
            self.spoke = now;
            self.counters.sent_bytes += length as u64;
        }
        true
    }

    /// Starts a handshake, if the peer can be reached and none is under way.
    pub(crate) fn initiate(&mut self, now: Instant, out: &mut Output) {
        if self.endpoint.is_some()
            && let Some(datagram) = self.session.initiate(now)
        {
            self.transmit(&datagram, now, out);
        }
    }

    fn transmit(&mut self, payload: &[u8], now: Instant, out: &mut Output) {
        if let Some(to) = self.endpoint {
            self.spoke = now;
            self.counters.sent_bytes += payload.len() as u64;
            out.push_transmit(to, payload);
        }
    }

    /// Notes an authentic datagram.
    fn hear(&mut self, from: SocketAddr, bytes: usize, now: Instant, out: &mut Output) {
        let peer = self.config.public_key;
        self.counters.received_bytes += bytes as u64;
        if self.silent {
            self.silent = false;
            out.events.push_back(Event::PeerReturned {
                peer,
                silence: self.silence(now),
            });
        }
        self.heard = Some(now);
        if self.endpoint != Some(from) {
            out.events.push_back(Event::EndpointChanged {
                peer,
                from: self.endpoint.replace(from),
                to: from,
            });
        }
    }

    fn silence(&self, now: Instant) -> std::time::Duration {
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

/// One form for each address: a dual-stack socket shows IPv4 senders as mapped IPv6.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}
