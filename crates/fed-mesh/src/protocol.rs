//! What a router needs of the cryptographic protocol.
//!
//! [`crate::Noise`] is WireGuard by boringtun, which reads the clock by itself. A simulation brings
//! a protocol that lives on the time it is handed.

use std::net::SocketAddr;
use std::time::Instant;

use crate::{DropReason, PublicKey};

/// The part of the protocol that peers share: one value for each router.
pub trait Protocol {
    /// The state of the protocol for one peer.
    type Session: Session;

    /// The router's own identity.
    fn public_key(&self) -> PublicKey;

    /// Makes the state for `peer`. Datagrams of its sessions will name `slot`, below 2^24.
    fn session(&self, peer: PublicKey, slot: u32, now: Instant) -> Self::Session;

    /// Finds out whom a datagram concerns. Nothing about it is proven yet.
    ///
    /// # Errors
    /// What to do with a datagram that concerns no session.
    fn address(&self, from: Origin, datagram: &[u8], now: Instant) -> Result<Addressee, Refusal>;
}

/// Where a datagram came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The last hop: who can be sent an answer, such as a cookie.
    pub hop: SocketAddr,
    /// The peer that it is from, if the hop is a relay, and as the relay has it.
    pub sender: Option<PublicKey>,
}

/// Whose session a datagram claims to concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The peer with this slot.
    Slot(u32),
    /// The peer with this key.
    Key(PublicKey),
}

/// Why a datagram concerns no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is to be counted and forgotten.
    Drop(DropReason),
    /// Its sender is to prove its address first: this datagram asks for it.
    Challenge(Vec<u8>),
}

/// What [`Session::seal`] adds to a packet at most, in bytes.
pub const OVERHEAD: usize = 32;

/// The least room that [`Session::seal`] and [`Session::open`] are given, in bytes: the length of
/// the longest handshake message.
pub const ROOM_MIN: usize = 148;

/// The part of the protocol that belongs to one peer.
pub trait Session {
    /// Whether [`Session::seal`] will succeed.
    fn is_ready(&self) -> bool;

    /// Encrypts one inner packet, or a keepalive if it is empty, into the head of `room`, and
    /// returns how much of it the datagram takes. `None` while there are no keys.
    /// `room` holds [`OVERHEAD`] bytes more than `inner`, and at least [`ROOM_MIN`].
    fn seal(&mut self, inner: &[u8], room: &mut [u8], now: Instant) -> Option<usize>;

    /// Starts a handshake. `None` while one is under way, whose retries [`Session::tick`] makes, and
    /// where sessions need none.
    fn initiate(&mut self, _now: Instant) -> Option<Vec<u8>> {
        None
    }

    /// Starts a handshake anew, even if one is under way: answers to the one before count still.
    fn retry(&mut self, _now: Instant) -> Option<Vec<u8>> {
        None
    }

    /// Takes a datagram in. An inner packet goes to the head of `room`, which is as long as the
    /// datagram, and at least [`ROOM_MIN`].
    ///
    /// # Errors
    /// Why the datagram is worthless.
    fn open(
        &mut self,
        datagram: &[u8],
        room: &mut [u8],
        now: Instant,
    ) -> Result<Opened, DropReason>;

    /// Does what is due.
    fn tick(&mut self, _now: Instant) -> Tick {
        Tick::default()
    }

    /// When [`Session::tick`] is to be called next. Every call with `&mut self` may change it.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// What a datagram held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// What to do now.
    pub content: Content,
    /// Whether both ends hold the keys of a new session since this datagram.
    pub completed: bool,
}

/// What a datagram asks for. All but `Cookie` prove who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An inner packet of so many bytes, at the head of the room.
    Inner(usize),
    /// Something that is no inner packet.
    Malformed,
    /// A sign of life.
    Keepalive,
    /// A handshake message, to be answered with this.
    Reply(Vec<u8>),
    /// The next handshake has better chances.
    Cookie,
}

/// What was due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// A datagram to send.
    pub datagram: Option<Vec<u8>>,
    /// Whether that asks for an answer: it starts a handshake.
    pub asks: bool,
    /// Whether the handshake has been given up: packets need not wait for it any longer.
    pub given_up: bool,
}
