//! The router: many peers behind one UDP socket.

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use crate::lane::{Inbound, Outbound};
use crate::links::Links;
use crate::peer::{Context, Peer};
use crate::route::Routes;
use crate::{
    DropReason, Drops, MTU_MAX, Noise, Output, PeerConfig, PeerStatus, PrivateKey, Protocol,
    PublicKey, SetPeersError, TimeoutReason, config,
};

/// Slots travel in 24 bits of a session's index.
const SLOTS: u32 = 1 << 24;

/// A WireGuard router that neither reads nor sends by itself.
///
/// Its owner hands it the packets of a TUN ([`Router::outbound`]) and the datagrams of a UDP socket
/// ([`Router::inbound`]), and after each batch sends and delivers what is in the [`Output`]. When
/// the moment told by [`Router::poll_timeout`] has come, it calls [`Router::handle_timeout`].
/// `now` must not run backwards from call to call.
///
/// Packets need `&self` alone, so that two threads can move them, one for each direction. Each
/// peer has its own lock, since its session must number and check packets one after the other.
/// The calls with `&mut self` may send packets that waited: their output is to be sent before the
/// next packet is taken in, or it overtakes them.
///
/// Inner packets are IPv6, of [`Router::mtu`] bytes at most, and of no more than the path to their
/// peer carries, which the router finds out by itself. A larger one is answered with an ICMPv6
/// Packet Too Big, which is among the packets for the TUN. A packet goes to the peer with the longest allowed prefix around its destination; a packet from a peer is delivered only if that
/// peer has the longest prefix around its source. What arrives is for the TUN, whatever its
/// destination: the router never sends inner packets on from peer to peer. What it does pass on,
/// between peers that it reaches straight, is [relay frames](Path::Relay), which it cannot read.
pub struct Router<P: Protocol = Noise> {
    protocol: P,
    own: PublicKey,
    mtu: usize,
    peers: BTreeMap<u32, Mutex<Peer<P::Session>>>,
    slots: HashMap<PublicKey, u32>,
    next_slot: u32,
    routes: Routes,
    links: RwLock<Links>,
    drops: Mutex<Drops>,
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
            mtu: MTU_MAX,
            peers: BTreeMap::new(),
            slots: HashMap::new(),
            next_slot: 0,
            routes: Routes::default(),
            links: RwLock::default(),
            drops: Mutex::default(),
        }
    }

    /// The same router for inner packets of up to `mtu` bytes instead of [`MTU_MAX`].
    #[must_use]
    pub fn with_mtu(mut self, mtu: usize) -> Self {
        self.mtu = mtu;
        self
    }

    /// The router's own identity.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.own
    }

    /// The largest inner packet that the router takes from the TUN, in bytes.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// Replaces the set of peers. A peer that stays, by its key, keeps its session, its counters
    /// and its path; new endpoints are tried where that is not direct, or does not work. A new peer
    /// with endpoints or a keepalive is called at once. May change the deadline.
    ///
    /// # Errors
    /// A set that is ambiguous; nothing is changed then.
    pub fn set_peers(
        &mut self,
        peers: Vec<PeerConfig>,
        now: Instant,
        out: &mut Output,
    ) -> Result<(), SetPeersError> {
        config::check(self.own, &peers)?;
        let mut routes = Routes::default();
        let mut staying = BTreeMap::new();
        let mut slots = HashMap::new();
        write(&self.links).set_members(peers.iter().map(|peer| peer.public_key));
        for peer in peers {
            let known = self.slots.get(&peer.public_key).copied();
            let slot = known.unwrap_or_else(|| self.free_slot());
            for prefix in &peer.allowed_ips {
                routes.insert(*prefix, slot);
            }
            slots.insert(peer.public_key, slot);
            let mut entry = self.peers.remove(&slot);
            let ctx = self.context(now);
            match &mut entry {
                Some(entry) => {
                    let old = exclusive(entry);
                    if old.config() != &peer {
                        old.reconfigure(peer, ctx, out);
                    }
                }
                None => {
                    let session = self.protocol.session(peer.public_key, slot, now);
                    let leads = self.own < peer.public_key;
                    let mut new = Peer::new(peer, leads, session, self.mtu, now);
                    new.initiate(ctx, out);
                    entry = Some(Mutex::new(new));
                }
            }
            staying.extend(entry.map(|entry| (slot, entry)));
        }
        (self.peers, self.slots, self.routes) = (staying, slots, routes);
        self.ask_relays(now, out);
        Ok(())
    }

    /// A batch of packets from the TUN. Only one may be open at a time, and its output is to be
    /// sent before the next one's: sessions keep the order of packets, their owner must as well.
    pub fn outbound(&self, now: Instant) -> Outbound<'_, P> {
        Outbound::new(self, now)
    }

    /// A batch of datagrams from the UDP socket. Only one may be open at a time.
    pub fn inbound(&self, now: Instant) -> Inbound<'_, P> {
        Inbound::new(self, now)
    }

    /// Takes in a packet from the TUN; see [`Router::outbound`]. May change the deadline.
    pub fn handle_inner(&self, packet: &[u8], now: Instant, out: &mut Output) {
        self.outbound(now).push(packet, out);
    }

    /// Takes in a datagram from the UDP socket; see [`Router::inbound`]. May change the deadline.
    pub fn handle_datagram(
        &self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
        out: &mut Output,
    ) {
        self.inbound(now).push(from, datagram, out);
    }

    /// Sends the packets that waited for a handshake which is now complete. To be called when an
    /// output [has some waiting](Output::has_waiting). May change the deadline.
    pub fn send_waiting(&mut self, now: Instant, out: &mut Output) {
        let ctx = context(self.own, &self.links, now);
        for peer in self.peers.values_mut().map(exclusive) {
            peer.settle(ctx, out);
        }
    }

    /// When [`Router::handle_timeout`] is to be called, and what for; `None` without peers.
    /// The answer holds until a call whose documentation says that it may change the deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimeoutReason)> {
        let deadlines = self.peers.values().map(|peer| lock(peer).deadline());
        deadlines.flatten().min()
    }

    /// Does what is due by `now`; an early call does nothing. Changes the deadline.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Output) {
        let ctx = context(self.own, &self.links, now);
        for peer in self.peers.values_mut().map(exclusive) {
            peer.tick(ctx, out);
        }
        self.ask_relays(now, out);
    }

    /// Asks the relays by which peers are tried where they are reached themselves: one that takes
    /// this router to be somewhere else passes on nothing from it or to it.
    fn ask_relays(&mut self, now: Instant, out: &mut Output) {
        let ctx = context(self.own, &self.links, now);
        for relay in std::mem::take(&mut out.tried) {
            let slot = self.slots.get(&relay);
            if let Some(peer) = slot.and_then(|slot| self.peers.get_mut(slot)) {
                exclusive(peer).ask_relay(ctx, out);
            }
        }
    }

    /// The peers, in the order in which they were added.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        let status = |peer: &Mutex<Peer<P::Session>>| {
            let peer = lock(peer);
            let relayed = read(&self.links).relayed(peer.config().public_key);
            peer.status(relayed, now)
        };
        self.peers.values().map(status).collect()
    }

    /// What was dropped without concerning any one peer.
    #[must_use]
    pub fn drops(&self) -> Drops {
        *lock(&self.drops)
    }

    /// What a peer needs to know of this router.
    pub(crate) fn context(&self, now: Instant) -> Context<'_> {
        context(self.own, &self.links, now)
    }

    pub(crate) fn protocol(&self) -> &P {
        &self.protocol
    }

    pub(crate) fn count_drop(&self, reason: DropReason) {
        lock(&self.drops).add(reason, 1);
    }

    /// The slot of the peer with this key.
    pub(crate) fn slot(&self, key: PublicKey) -> Option<u32> {
        self.slots.get(&key).copied()
    }

    /// The slot of the peer that an inner address belongs to.
    pub(crate) fn owner(&self, addr: Ipv6Addr) -> Option<u32> {
        self.routes.lookup(addr)
    }

    /// The peer in a slot, for the caller alone.
    pub(crate) fn peer(&self, slot: u32) -> Option<MutexGuard<'_, Peer<P::Session>>> {
        self.peers.get(&slot).map(lock)
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

fn context(own: PublicKey, links: &RwLock<Links>, now: Instant) -> Context<'_> {
    Context {
        own: own.into(),
        links,
        now,
    }
}

/// A thread that panicked ends its router; until then the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exclusive<T>(mutex: &mut Mutex<T>) -> &mut T {
    mutex.get_mut().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
