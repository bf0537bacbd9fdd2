//! The router: many peers behind one UDP socket.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use crate::packet::{self, Addresses};
use crate::peer::{Outbox, Peer, canonical};
use crate::route::Routes;
use crate::{
    Addressee, DropReason, Drops, Event, MTU, Noise, PeerConfig, PeerStatus, PrivateKey, Protocol,
    PublicKey, Refusal, SetPeersError, TimeoutReason, Transmit, config,
};

/// Slots travel in 24 bits of a session's index.
const SLOTS: u32 = 1 << 24;

/// A WireGuard router that neither reads nor sends by itself.
///
/// Its owner hands it the packets of a TUN ([`Router::handle_inner`]) and the datagrams of a UDP
/// socket ([`Router::handle_datagram`]), and after each call drains [`Router::poll_transmit`],
/// [`Router::poll_deliver`] and [`Router::poll_event`], which grow without bound otherwise.
/// When the moment told by [`Router::poll_timeout`] has come, it calls [`Router::handle_timeout`].
/// `now` must not run backwards from call to call.
///
/// Inner packets are IPv6, of [`MTU`] bytes at most. A packet goes to the peer with the longest
/// allowed prefix around its destination; a packet from a peer is delivered only if that peer has
/// the longest prefix around its source. What arrives is for the TUN, whatever its destination:
/// the router never sends on from peer to peer.
pub struct Router<P: Protocol = Noise> {
    protocol: P,
    own: PublicKey,
    peers: BTreeMap<u32, Peer<P::Session>>,
    slots: HashMap<PublicKey, u32>,
    next_slot: u32,
    routes: Routes,
    drops: Drops,
    out: Outbox,
}

impl Router<Noise> {
    /// A WireGuard router without peers.
    #[must_use]
    pub fn new(key: PrivateKey, now: Instant) -> Self {
        Self::with_protocol(Noise::new(key), now)
    }
}

impl<P: Protocol> Router<P> {
    /// A router without peers that speaks `protocol`.
    #[must_use]
    pub fn with_protocol(protocol: P, _now: Instant) -> Self {
        Self {
            own: protocol.public_key(),
            protocol,
            peers: BTreeMap::new(),
            slots: HashMap::new(),
            next_slot: 0,
            routes: Routes::default(),
            drops: Drops::default(),
            out: Outbox::default(),
        }
    }

    /// The router's own identity.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.own
    }

    /// Replaces the set of peers. A peer that stays, by its key, keeps its session, its counters
    /// and, unless its configured endpoint changed, the endpoint it roamed to. A new peer with an
    /// endpoint is called at once. May change the deadline.
    ///
    /// # Errors
    /// A set that is ambiguous; nothing is changed then.
    pub fn set_peers(&mut self, peers: Vec<PeerConfig>, now: Instant) -> Result<(), SetPeersError> {
        config::check(self.own, &peers)?;
        let mut routes = Routes::default();
        let mut staying = BTreeMap::new();
        let mut slots = HashMap::new();
        for peer in peers {
            let known = self.slots.get(&peer.public_key).copied();
            let slot = known.unwrap_or_else(|| self.free_slot());
            for prefix in &peer.allowed_ips {
                routes.insert(*prefix, slot);
            }
            slots.insert(peer.public_key, slot);
            let entry = match self.peers.remove(&slot) {
                Some(mut old) => {
                    if old.config() != &peer {
                        old.reconfigure(peer, now);
                        old.greet(now, &mut self.out);
                    }
                    old
                }
                None => {
                    let session = self.protocol.session(peer.public_key, slot, now);
                    let mut new = Peer::new(peer, session, now);
                    new.initiate(now, &mut self.out);
                    new
                }
            };
            staying.insert(slot, entry);
        }
        (self.peers, self.slots, self.routes) = (staying, slots, routes);
        Ok(())
    }

    /// Takes in a packet from the TUN. May change the deadline.
    pub fn handle_inner(&mut self, packet: &[u8], now: Instant) {
        let reason = match packet::addresses(packet) {
            None => DropReason::MalformedInner,
            Some(_) if packet.len() > MTU => DropReason::TooBig,
            Some(Addresses { destination, .. }) => {
                let slot = self.routes.lookup(destination);
                match slot.and_then(|slot| self.peers.get_mut(&slot)) {
                    Some(peer) => return peer.send_inner(packet, now, &mut self.out),
                    None => DropReason::NoRoute,
                }
            }
        };
        self.drops.add(reason, 1);
    }

    /// Takes in a datagram from the UDP socket. May change the deadline.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let from = canonical(from);
        let slot = match self.protocol.address(from.ip(), datagram, now) {
            Ok(Addressee::Slot(slot)) => Some(slot),
            Ok(Addressee::Key(key)) => self.slots.get(&key).copied(),
            Err(Refusal::Drop(reason)) => return self.drops.add(reason, 1),
            Err(Refusal::Challenge(payload)) => {
                self.drops.add(DropReason::UnderLoad, 1);
                self.out.transmits.push_back(Transmit { to: from, payload });
                return;
            }
        };
        let Some((slot, peer)) = slot.and_then(|s| Some((s, self.peers.get_mut(&s)?))) else {
            return self.drops.add(DropReason::UnknownPeer, 1);
        };
        let Some(inner) = peer.receive(from, datagram, now, &mut self.out) else {
            return;
        };
        match packet::addresses(&inner) {
            None => peer.drop(DropReason::MalformedDecrypted, 1),
            Some(Addresses { source, .. }) if self.routes.lookup(source) != Some(slot) => {
                peer.drop(DropReason::SourceNotAllowed, 1);
            }
            Some(_) => {
                peer.delivered(inner.len());
                self.out.delivers.push_back(inner);
            }
        }
    }

    /// The next datagram to send. Does not change the deadline.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The next inner packet for the TUN. Does not change the deadline.
    pub fn poll_deliver(&mut self) -> Option<Vec<u8>> {
        self.out.delivers.pop_front()
    }

    /// The next event. Does not change the deadline.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.out.events.pop_front()
    }

    /// When [`Router::handle_timeout`] is to be called, and what for; `None` without peers.
    /// The answer holds until a call whose documentation says that it may change the deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimeoutReason)> {
        self.peers.values().filter_map(Peer::deadline).min()
    }

    /// Does what is due by `now`; an early call does nothing. Changes the deadline.
    pub fn handle_timeout(&mut self, now: Instant) {
        for peer in self.peers.values_mut() {
            peer.tick(now, &mut self.out);
        }
    }

    /// The peers, in the order in which they were added.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        self.peers.values().map(|peer| peer.status(now)).collect()
    }

    /// What was dropped without concerning any one peer.
    #[must_use]
    pub fn drops(&self) -> Drops {
        self.drops
    }

    /// A slot that no peer had lately, so that late datagrams of a removed peer find nobody.
    fn free_slot(&mut self) -> u32 {
        loop {
            let slot = self.next_slot;
            self.next_slot = (slot + 1) % SLOTS;
            if !self.slots.values().any(|taken| *taken == slot) {
                return slot;
            }
        }
    }
}
