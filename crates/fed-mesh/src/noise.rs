//! WireGuard, by boringtun.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;

use crate::throttle::Throttle;
use crate::{
    Addressee, Content, DropReason, HANDSHAKES_PER_SECOND, Opened, Origin, PrivateKey, Protocol,
    PublicKey, ROOM_MIN, Refusal, Session, Tick,
};

/// boringtun stamps its timers with the time of the last look, and its own device looks this often.
const TICK: Duration = Duration::from_millis(250);

/// The first byte of each kind of message.
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 4;

/// The length of a MAC of a handshake message, in bytes.
const MAC: usize = 16;

/// A data message counts up to here (WireGuard paper, section 6.1: Reject-After-Messages). Beyond
/// it boringtun's replay window would overflow.
const COUNTER_MAX: u64 = u64::MAX - (1 << 13);

/// boringtun keeps so many sessions of one peer.
const SESSIONS: usize = 8;

/// WireGuard for one router.
pub struct Noise {
    private_key: PrivateKey,
    public_key: x25519::PublicKey,
    /// Guards the door, for all peers together.
    limiter: RateLimiter,
    /// And for each sender that has shown a cookie.
    throttle: Mutex<Throttle>,
    /// Every `Tunn` insists on a limiter and would count a message again: this one lets all pass.
    unlimited: Arc<RateLimiter>,
}

impl Noise {
    /// WireGuard under the identity of `private_key`.
    #[must_use]
    pub fn new(private_key: PrivateKey) -> Self {
        let public_key = x25519::PublicKey::from(private_key.secret());
        Self {
            limiter: RateLimiter::new(&public_key, HANDSHAKES_PER_SECOND),
            throttle: Mutex::default(),
            unlimited: Arc::new(RateLimiter::new(&public_key, u64::MAX)),
            private_key,
            public_key,
        }
    }
}

impl Protocol for Noise {
    type Session = NoiseSession;

    fn public_key(&self) -> PublicKey {
        PublicKey::from_bytes(self.public_key.to_bytes())
    }

    fn session(&self, peer: PublicKey, slot: u32, now: Instant) -> NoiseSession {
        let tunn = Tunn::new(
            self.private_key.secret().clone(),
            x25519::PublicKey::from(*peer.as_bytes()),
            None,
            None,
            slot,
            Some(Arc::clone(&self.unlimited)),
        );
        NoiseSession {
            tunn,
            ready: false,
            unconfirmed: VecDeque::new(),
            next_tick: now + TICK,
        }
    }

    fn address(&self, from: Origin, datagram: &[u8], now: Instant) -> Result<Addressee, Refusal> {
        if matches!(datagram.first(), Some(&(INITIATION | RESPONSE))) {
            // Does something once a second at most.
            self.limiter.reset_count();
        }
        if let Some(slot) = slot_of_data(datagram) {
            return Ok(slot);
        }
        let mut challenge = [0; ROOM_MIN];
        let packet = match self
            .limiter
            .verify_packet(Some(from.hop.ip()), datagram, &mut challenge)
        {
            Ok(packet) => packet,
            Err(TunnResult::WriteToNetwork(cookie)) => {
                return Err(Refusal::Challenge(cookie.to_vec()));
            }
            Err(
                TunnResult::Done
                | TunnResult::Err(_)
                | TunnResult::WriteToTunnelV4(..)
                | TunnResult::WriteToTunnelV6(..),
            ) => return Err(Refusal::Drop(DropReason::MalformedOuter)),
        };
        // Without a cookie it has passed the limit for all together.
        if shows_cookie(&packet, datagram) {
            let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
            if !throttle.admits(from, now) {
                return Err(Refusal::Drop(DropReason::UnderLoad));
            }
        }
        match packet {
            Packet::HandshakeInit(initiation) => {
                parse_handshake_anon(self.private_key.secret(), &self.public_key, &initiation)
                    .map(|half| Addressee::Key(PublicKey::from_bytes(half.peer_static_public)))
                    .map_err(|_| Refusal::Drop(DropReason::HandshakeRefused))
            }
            Packet::HandshakeResponse(message) => Ok(slot_of(message.receiver_idx)),
            Packet::PacketCookieReply(message) => Ok(slot_of(message.receiver_idx)),
            Packet::PacketData(message) => Ok(slot_of(message.receiver_idx)),
        }
    }
}

/// Whether a handshake message bears a second MAC, which is made from a cookie; it is all zero
/// without one (WireGuard paper, section 5.4.4).
fn shows_cookie(packet: &Packet<'_>, datagram: &[u8]) -> bool {
    let handshake = matches!(
        packet,
        Packet::HandshakeInit(_) | Packet::HandshakeResponse(_)
    );
    handshake
        && datagram
            .last_chunk::<MAC>()
            .is_some_and(|mac| *mac != [0; MAC])
}

/// The slot that a data message names, without the checks of the other kinds.
fn slot_of_data(datagram: &[u8]) -> Option<Addressee> {
    let header: &[u8; 32] = datagram.first_chunk()?;
    let index = [header[4], header[5], header[6], header[7]];
    (header[..4] == [DATA, 0, 0, 0]).then(|| slot_of(u32::from_le_bytes(index)))
}

/// boringtun puts the slot above eight bits of its own.
fn slot_of(receiver_index: u32) -> Addressee {
    Addressee::Slot(receiver_index >> 8)
}

/// WireGuard with one peer.
pub struct NoiseSession {
    tunn: Tunn,
    /// Whether `tunn` has keys to send with; it would queue packets by itself otherwise, uncounted.
    ready: bool,
    /// Sessions that we answered for, by our index, until the peer is seen to use them.
    unconfirmed: VecDeque<[u8; 4]>,
    next_tick: Instant,
}

impl NoiseSession {
    fn refresh(&mut self) {
        self.ready = self.tunn.time_since_last_handshake().is_some();
    }

    fn initiation(&mut self, anew: bool) -> Option<Vec<u8>> {
        let mut buffer = vec![0; ROOM_MIN];
        let result = self.tunn.format_handshake_initiation(&mut buffer, anew);
        written(&result).map(|length| shortened(buffer, length))
    }

    /// Notes the reply to a handshake message, and tells whether it completes the handshake: that
    /// to a response does (a keepalive), that to an initiation (a response) is to be confirmed.
    fn note_reply(&mut self, reply: &[u8]) -> bool {
        match (
            reply.first(),
            reply.get(4..8).and_then(|b| b.try_into().ok()),
        ) {
            (Some(&RESPONSE), Some(index)) => {
                if self.unconfirmed.len() == SESSIONS {
                    self.unconfirmed.pop_front();
                }
                self.unconfirmed.push_back(index);
                false
            }
            (kind, _) => kind == Some(&DATA),
        }
    }

    /// Whether this authentic data is the first of a session that we answered for.
    fn confirms(&mut self, datagram: &[u8]) -> bool {
        let position = self
            .unconfirmed
            .iter()
            .position(|index| datagram.get(4..8) == Some(index.as_slice()));
        match position {
            Some(position) => {
                self.unconfirmed.drain(..=position);
                true
            }
            None => false,
        }
    }
}

impl Session for NoiseSession {
    fn is_ready(&self) -> bool {
        self.ready
    }

    fn seal(&mut self, inner: &[u8], room: &mut [u8], _now: Instant) -> Option<usize> {
        if !self.ready {
            return None;
        }
        written(&self.tunn.encapsulate(inner, room))
    }

    fn initiate(&mut self, _now: Instant) -> Option<Vec<u8>> {
        self.initiation(false)
    }

    fn retry(&mut self, _now: Instant) -> Option<Vec<u8>> {
        self.initiation(true)
    }

    fn open(
        &mut self,
        datagram: &[u8],
        room: &mut [u8],
        _now: Instant,
    ) -> Result<Opened, DropReason> {
        let is_data = datagram.first() == Some(&DATA);
        // An empty datagram asks boringtun for something else.
        if datagram.is_empty() || (is_data && counter(datagram)? > COUNTER_MAX) {
            return Err(DropReason::MalformedOuter);
        }
        let (length, completed) = match self.tunn.decapsulate(None, datagram, room) {
            TunnResult::WriteToNetwork(reply) => {
                let reply = reply.to_vec();
                let completed = self.note_reply(&reply);
                self.refresh();
                return Ok(Opened {
                    content: Content::Reply(reply),
                    completed,
                });
            }
            TunnResult::WriteToTunnelV6(inner, _) => (Some(inner.len()), self.confirms(datagram)),
            TunnResult::WriteToTunnelV4(..) => (None, self.confirms(datagram)),
            TunnResult::Err(WireGuardError::InvalidPacket) if is_data => {
                (None, self.confirms(datagram))
            }
            TunnResult::Done if is_data => (Some(0), self.confirms(datagram)),
            TunnResult::Done => {
                return Ok(Opened {
                    content: Content::Cookie,
                    completed: false,
                });
            }
            TunnResult::Err(error) => return Err(reason(&error, is_data)),
        };
        if !self.ready || completed {
            self.refresh();
        }
        let content = match length {
            None => Content::Malformed,
            Some(0) => Content::Keepalive,
            Some(length) => Content::Inner(length),
        };
        Ok(Opened { content, completed })
    }

    fn tick(&mut self, now: Instant) -> Tick {
        if now < self.next_tick {
            return Tick::default();
        }
        self.next_tick = now + TICK;
        let mut buffer = vec![0; ROOM_MIN];
        let result = self.tunn.update_timers(&mut buffer);
        let given_up = matches!(&result, TunnResult::Err(WireGuardError::ConnectionExpired));
        let length = written(&result);
        self.refresh();
        Tick {
            asks: buffer.first() == Some(&INITIATION),
            datagram: length.map(|length| shortened(buffer, length)),
            given_up,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.next_tick)
    }
}

/// The length of what boringtun put at the head of the buffer for the network.
fn written(result: &TunnResult<'_>) -> Option<usize> {
    match result {
        TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
        TunnResult::Done
        | TunnResult::Err(_)
        | TunnResult::WriteToTunnelV4(..)
        | TunnResult::WriteToTunnelV6(..) => None,
    }
}

/// The counter of a data message.
fn counter(datagram: &[u8]) -> Result<u64, DropReason> {
    let bytes = datagram.get(8..16).and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(u64::from_le_bytes)
        .ok_or(DropReason::MalformedOuter)
}

fn shortened(mut buffer: Vec<u8>, length: usize) -> Vec<u8> {
    buffer.truncate(length);
    buffer
}

fn reason(error: &WireGuardError, is_data: bool) -> DropReason {
    match error {
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => DropReason::Replayed,
        WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::UnexpectedPacket
        | WireGuardError::WrongPacketType
        | WireGuardError::WrongIndex
        | WireGuardError::WrongKey
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::WrongTai64nTimestamp
        | WireGuardError::InvalidMac
        | WireGuardError::InvalidAeadTag
        | WireGuardError::InvalidPacket
        | WireGuardError::NoCurrentSession
        | WireGuardError::LockFailed
        | WireGuardError::ConnectionExpired
        | WireGuardError::UnderLoad => {
            if is_data {
                DropReason::Undecryptable
            } else {
                DropReason::HandshakeRefused
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OVERHEAD;

    #[test]
    fn counters_beyond_the_limit_never_reach_the_replay_window() {
        let now = Instant::now();
        let noise = Noise::new(PrivateKey::generate());
        let mut session = noise.session(PrivateKey::generate().public_key(), 0, now);
        let mut open = |counter: u64| {
            let mut datagram = vec![0; OVERHEAD];
            datagram[0] = DATA;
            datagram[8..16].copy_from_slice(&counter.to_le_bytes());
            session.open(&datagram, &mut [0; ROOM_MIN], now)
        };
        assert_eq!(open(COUNTER_MAX), Err(DropReason::Undecryptable));
        assert_eq!(open(COUNTER_MAX + 1), Err(DropReason::MalformedOuter));
        assert_eq!(
            session.open(&[DATA; 15], &mut [0; ROOM_MIN], now),
            Err(DropReason::MalformedOuter)
        );
        assert_eq!(
            session.open(&[], &mut [0; ROOM_MIN], now),
            Err(DropReason::MalformedOuter)
        );
    }
}
