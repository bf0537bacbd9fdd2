//! What comes from a peer.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Instant;

use super::{Context, Peer};
use crate::config::{FOLLOW_HOLD, TELL_EVERY};
use crate::control::Control;
use crate::paths::Sign;
use crate::width::Width;
use crate::{Content, DropReason, Event, Opened, Output, Path, ROOM_MIN, Session};

/// So many addresses are remembered from which a peer has sent: by IPv4 and IPv6, before and after
/// it moved. No more are noted in [`FOLLOW_HOLD`], whatever the peer sends from.
const HEARD_AT_MAX: usize = 4;

impl<S: Session> Peer<S> {
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
            (Content::Reply(_), _) | (_, Some(Control::Probe(_))) => Some(Sign::Try),
            // Whether it answers what went by another path is told by its number.
            (_, Some(Control::Pong(_))) if self.paths.current() != Some(path) => Some(Sign::Try),
            (_, Some(Control::Pong(_))) => Some(Sign::Answer),
            (Content::Inner(_) | Content::Malformed | Content::Keepalive, _) => Some(Sign::Word),
        };
        if let Some(sign) = sign {
            self.hear(path, sign, path.overhead() + datagram.len(), ctx, out);
        }
        if completed {
            self.complete(path, ctx, out);
        }
        let mut asked = 0;
        let inner = match content {
            Content::Inner(length) if control.is_some() => {
                asked = length;
                None
            }
            Content::Inner(length) => {
                self.data = Some(now);
                Some(length)
            }
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
            self.obey(control, asked, path, ctx, out);
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

    /// Does what a control message of `length` bytes asks for.
    fn obey(
        &mut self,
        control: Control,
        length: usize,
        path: Path,
        ctx: Context<'_>,
        out: &mut Output,
    ) {
        self.paths.heard_control();
        match control {
            Control::Ping(number) => {
                // By the way it came. There are keys, or it could not have been read; those to
                // answer with may still be missing, and then the next ping is answered.
                self.seal(&Control::Pong(number).packet(), path, ctx, out);
            }
            Control::Probe(number) => {
                let pong = Control::Pong(number).padded(length);
                self.seal(&pong, path, ctx, out);
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

    /// Counts an inner packet that the router delivered.
    pub(crate) fn delivered(&mut self, bytes: usize) {
        self.counters.inner_received.add(bytes);
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
}
