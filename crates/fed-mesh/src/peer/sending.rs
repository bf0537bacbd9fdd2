//! What a peer is sent.

use super::{Context, Peer};
use crate::control::Control;
use crate::frame;
use crate::{DropReason, MTU_MIN, OVERHEAD, Output, Path, QUEUE_PACKETS, ROOM_MIN, Session};

impl<S: Session> Peer<S> {
    /// Sends an inner packet, or keeps it for after the handshake.
    pub(crate) fn send_inner(&mut self, packet: &[u8], ctx: Context<'_>, out: &mut Output) {
        self.width.sent(packet.len());
        if self.queue.is_empty()
            && let Some(path) = self.paths.towards()
            && let Some(went) = self.seal(packet, path, ctx, out)
        {
            self.count_sent(packet, went, ctx);
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

    /// Sends what waits, or sees to it that a handshake is under way for it.
    pub(crate) fn settle(&mut self, ctx: Context<'_>, out: &mut Output) {
        while let Some(packet) = self.queue.pop_front() {
            let path = self.paths.towards();
            let Some(went) = path.and_then(|path| self.seal(&packet, path, ctx, out)) else {
                self.queue.push_front(packet);
                self.initiate(ctx, out);
                return;
            };
            self.count_sent(&packet, went, ctx);
        }
    }

    fn count_sent(&mut self, packet: &[u8], went: bool, ctx: Context<'_>) {
        self.paths.sent(false, ctx.now);
        if went {
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

    pub(super) fn is_reachable(&self, ctx: Context<'_>) -> bool {
        self.paths.current().is_some()
            || self.paths.has_candidates()
            || !ctx.relays(self.config.public_key).is_empty()
    }

    /// Sends a message of the session by the current path, or by all there are if it asks for an
    /// answer and the current path gives none.
    pub(super) fn speak(
        &mut self,
        datagram: &[u8],
        asks: bool,
        ctx: Context<'_>,
        out: &mut Output,
    ) {
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

    pub(super) fn send_by(
        &mut self,
        paths: &[Path],
        datagram: &[u8],
        ctx: Context<'_>,
        out: &mut Output,
    ) {
        for path in paths {
            self.transmit(datagram, *path, ctx, out);
        }
    }

    /// Asks whether a path works. By the path that is taken it says so too, as data does: a peer that
    /// is sent nothing else learns from it where this router is.
    pub(super) fn ping(&mut self, path: Path, ctx: Context<'_>, out: &mut Output) {
        let number = self.paths.ping(path, ctx.now);
        let taken = self.paths.current() == Some(path);
        if !taken {
            self.seal(&Control::Probe(number).padded(MTU_MIN), path, ctx, out);
        } else if self
            .seal(&Control::Ping(number).packet(), path, ctx, out)
            .is_some()
        {
            self.paths.sent(false, ctx.now);
        }
    }

    /// Asks the peer, by which others are tried, where it is reached itself: unless it has been
    /// asked just now.
    pub(crate) fn ask_relay(&mut self, ctx: Context<'_>, out: &mut Output) {
        if let Some(path) = self.paths.current()
            && self.session.is_ready()
            && !self.paths.is_asked(path, ctx.now)
        {
            self.ping(path, ctx, out);
        }
    }

    /// Encrypts a packet into the output, for `path`: whether it goes out, or is dropped for want of
    /// the relay. `None` while there are no keys.
    pub(super) fn seal(
        &mut self,
        inner: &[u8],
        path: Path,
        ctx: Context<'_>,
        out: &mut Output,
    ) -> Option<bool> {
        let length = (inner.len() + OVERHEAD).max(ROOM_MIN);
        let room = out.transmit_room(path.overhead() + length);
        let room = match path {
            Path::Udp(_) => room,
            Path::Relay(_) => frame::write(room, self.id, ctx.own),
        };
        let length = self.session.seal(inner, room, ctx.now)?;
        let sent = self.keep(path.overhead() + length, path, ctx, out);
        if sent && self.paths.current() == Some(path) {
            self.spoke = ctx.now;
        }
        Some(sent)
    }

    /// Sends a message of the session by `path`.
    pub(super) fn transmit(
        &mut self,
        message: &[u8],
        path: Path,
        ctx: Context<'_>,
        out: &mut Output,
    ) {
        let length = path.overhead() + message.len();
        let room = out.transmit_room(length);
        let room = match path {
            Path::Udp(_) => room,
            Path::Relay(_) => frame::write(room, self.id, ctx.own),
        };
        room.copy_from_slice(message);
        self.keep(length, path, ctx, out);
    }

    /// Keeps what is at the head of the room for datagrams as one for `path`, if that is there.
    fn keep(&mut self, length: usize, path: Path, ctx: Context<'_>, out: &mut Output) -> bool {
        let to = match path {
            Path::Udp(address) => Some(address),
            Path::Relay(via) => ctx.links().address(via),
        };
        let taken = self.paths.current() == Some(path);
        match to {
            Some(to) => {
                out.keep_transmit(to, length);
                self.counters.by_path.of(path.kind()).sent.add(length);
            }
            None => {
                self.count_drop(DropReason::NoRelay, 1);
                if taken {
                    self.paths.broken(ctx.now);
                }
            }
        }
        to.is_some()
    }
}
