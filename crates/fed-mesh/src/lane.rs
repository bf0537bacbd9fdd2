//! Batches of packets through a router, in one direction.
//!
//! A lane keeps the peer of the last packet locked, because packets come in bursts of one flow: the
//! look-up and the lock are paid for once a burst. Drop it when the batch is over.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::MutexGuard;
use std::time::Instant;

use crate::frame::{self, Frame};
use crate::packet::{self, Addresses};
use crate::path::canonical;
use crate::peer::Peer;
use crate::{Addressee, DropReason, Origin, Output, Path, Protocol, Refusal, Router};

/// Packets from the TUN, on their way to the peers. See [`Router::outbound`].
pub struct Outbound<'r, P: Protocol> {
    router: &'r Router<P>,
    now: Instant,
    /// The last destination, and its peer.
    last: Option<(Ipv6Addr, MutexGuard<'r, Peer<P::Session>>)>,
    /// Whose packets were last found too big, and told so.
    told: Option<Flow>,
}

/// Addresses and, where there are such, ports.
type Flow = (Addresses, [u8; 4]);

impl<'r, P: Protocol> Outbound<'r, P> {
    pub(crate) fn new(router: &'r Router<P>, now: Instant) -> Self {
        Self {
            router,
            now,
            last: None,
            told: None,
        }
    }

    /// Takes in one packet from the TUN. May change the deadline.
    pub fn push(&mut self, packet: &[u8], out: &mut Output) {
        let Some(addresses) = packet::addresses(packet) else {
            return self.router.count_drop(DropReason::MalformedInner);
        };
        let destination = addresses.destination;
        let Some(mut peer) = self.peer(destination) else {
            return self.router.count_drop(DropReason::NoRoute);
        };
        let mtu = peer.mtu();
        if packet.len() > mtu {
            peer.count_drop(DropReason::TooBig, 1);
            self.tell(packet, addresses, mtu, out);
        } else {
            peer.send_inner(packet, self.router.context(self.now), out);
        }
        self.last = Some((destination, peer));
    }

    /// Tells the sender of a packet how large it may be: once for consecutive packets of a flow,
    /// which the kernel often hands over in one piece.
    fn tell(&mut self, packet: &[u8], addresses: Addresses, mtu: usize, out: &mut Output) {
        let ports = packet.get(40..44).and_then(|ports| ports.try_into().ok());
        let flow = Some((addresses, ports.unwrap_or_default()));
        if self.told == flow {
            return;
        }
        self.told = flow;
        if let Some(answer) = packet::too_big(packet, addresses, mtu) {
            out.push_packet(&answer);
        }
    }

    fn peer(&mut self, destination: Ipv6Addr) -> Option<MutexGuard<'r, Peer<P::Session>>> {
        match self.last.take() {
            Some((last, peer)) if last == destination => Some(peer),
            // Unlocked before the next is locked, which may be the same.
            before => {
                drop(before);
                self.router.peer(self.router.owner(destination)?)
            }
        }
    }
}

/// Datagrams from the network, on their way to the TUN. See [`Router::inbound`].
pub struct Inbound<'r, P: Protocol> {
    router: &'r Router<P>,
    now: Instant,
    /// The last slot, and its peer.
    last: Option<(u32, MutexGuard<'r, Peer<P::Session>>)>,
    /// The last source address, and whose it is.
    owner: Option<(Ipv6Addr, Option<u32>)>,
}

impl<'r, P: Protocol> Inbound<'r, P> {
    pub(crate) fn new(router: &'r Router<P>, now: Instant) -> Self {
        Self {
            router,
            now,
            last: None,
            owner: None,
        }
    }

    /// Takes in one datagram. May change the deadline.
    pub fn push(&mut self, from: SocketAddr, datagram: &[u8], out: &mut Output) {
        let from = canonical(from);
        if from.port() == 0 {
            // No kernel sends an answer there.
            self.router.count_drop(DropReason::MalformedOuter);
        } else if frame::is_frame(datagram) {
            self.frame(from, datagram, out);
        } else {
            let origin = Origin {
                hop: from,
                sender: None,
            };
            self.message(Path::Udp(from), origin, datagram, out, |reply, out| {
                out.push_transmit(from, reply);
            });
        }
    }

    /// Takes in a frame: for another router it is passed on, for this one opened.
    fn frame(&mut self, from: SocketAddr, datagram: &[u8], out: &mut Output) {
        let Some(frame) = Frame::read(datagram) else {
            return self.router.count_drop(DropReason::MalformedOuter);
        };
        let ctx = self.router.context(self.now);
        if frame.to != ctx.own {
            return match ctx.links().forward(from, &frame, self.now) {
                Ok(to) => out.push_transmit(to, datagram),
                Err(reason) => self.router.count_drop(reason),
            };
        }
        let (relay, sender) = {
            let links = ctx.links();
            (links.router_at(from), links.key(frame.from))
        };
        match relay {
            Some(_) if sender.is_none() => self.router.count_drop(DropReason::UnknownPeer),
            Some(relay) => {
                let path = Path::Relay(relay);
                let origin = Origin { hop: from, sender };
                self.message(path, origin, frame.message, out, |reply, out| {
                    let length = frame::HEADER + reply.len();
                    let room = out.transmit_room(length);
                    frame::write(room, frame.from, ctx.own).copy_from_slice(reply);
                    out.keep_transmit(from, length);
                });
            }
            None => self.router.count_drop(DropReason::RelayRefused),
        }
    }

    /// Takes in a message that came by `path`. A cookie, which is good for the last hop, is sent
    /// back by `challenge`.
    fn message(
        &mut self,
        path: Path,
        origin: Origin,
        message: &[u8],
        out: &mut Output,
        challenge: impl FnOnce(&[u8], &mut Output),
    ) {
        let protocol = self.router.protocol();
        let slot = match protocol.address(origin, message, self.now) {
            Ok(Addressee::Slot(slot)) => Some(slot),
            Ok(Addressee::Key(key)) => self.router.slot(key),
            Err(Refusal::Drop(reason)) => return self.router.count_drop(reason),
            Err(Refusal::Challenge(payload)) => {
                self.router.count_drop(DropReason::UnderLoad);
                return challenge(&payload, out);
            }
        };
        let Some((slot, mut peer)) = slot.and_then(|slot| Some((slot, self.peer(slot)?))) else {
            return self.router.count_drop(DropReason::UnknownPeer);
        };
        let ctx = self.router.context(self.now);
        if let Some(length) = peer.receive(path, message, ctx, out) {
            match packet::addresses(out.next_packet(length)) {
                None => peer.count_drop(DropReason::MalformedDecrypted, 1),
                Some(Addresses { source, .. }) if self.owner(source) != Some(slot) => {
                    peer.count_drop(DropReason::SourceNotAllowed, 1);
                }
                Some(_) => {
                    peer.delivered(length);
                    out.keep_packet(length);
                }
            }
        }
        self.last = Some((slot, peer));
    }

    fn peer(&mut self, slot: u32) -> Option<MutexGuard<'r, Peer<P::Session>>> {
        match self.last.take() {
            Some((last, peer)) if last == slot => Some(peer),
            before => {
                drop(before);
                self.router.peer(slot)
            }
        }
    }

    fn owner(&mut self, source: Ipv6Addr) -> Option<u32> {
        match self.owner {
            Some((last, owner)) if last == source => owner,
            _ => {
                let owner = self.router.owner(source);
                self.owner = Some((source, owner));
                owner
            }
        }
    }
}
