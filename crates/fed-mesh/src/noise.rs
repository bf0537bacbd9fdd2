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
    Addressee, Content, DropReason, Opened, Origin, PrivateKey, Protocol, PublicKey, ROOM_MIN,
    Refusal, Session, Tick,
};

/// boringtun stamps its timers with the time of the last look, and its own device looks this often.
const TICK: Duration = Duration::from_millis(250);

/// The first byte of each kind of message.
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 4;

/// A data message counts up to here (WireGuard paper, section 6.1: Reject-After-Messages). Beyond
/// it boringtun's replay window would overflow.
const COUNTER_MAX: u64 = u64::MAX - (1 << 13);

/// So long after it has answered a handshake a router starts none itself: enough for an answer to
/// come that is already on its way, where round trips take less than twice this. Of a series of
/// calls the first counts: that there are more shows that its answers do not arrive.
const ANSWER_HOLD: Duration = Duration::from_secs(1);

/// Calls that come within this time of the first are one series.
const ANSWER_SERIES: Duration = Duration::from_secs(8);

/// boringtun keeps so many sessions of one peer.
const SESSIONS: usize = 8;

/// WireGuard for one router.
pub struct Noise {
    private_key: PrivateKey,
    public_key: x25519::PublicKey,
    /// Guards the door while too many come: asks each for a cookie.
    strict: RateLimiter,
    /// Counts those that come, and what each costs that has shown a cookie.
    throttle: Mutex<Throttle>,
    /// Every `Tunn` insists on a limiter and would count a message again: this one lets all pass
    /// whose first MAC is right.
    unlimited: Arc<RateLimiter>,
}

impl Noise {
    /// WireGuard under the identity of `private_key`.
    #[must_use]
    pub fn new(private_key: PrivateKey) -> Self {
        let public_key = x25519::PublicKey::from(private_key.secret());
        Self {
            strict: RateLimiter::new(&public_key, 0),
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
            confirmed: VecDeque::new(),
            answered: None,
            next_tick: now + TICK,
        }
    }

    fn address(&self, from: Origin, datagram: &[u8], now: Instant) -> Result<Addressee, Refusal> {
        if let Some(slot) = slot_of_data(datagram) {
            return Ok(slot);
        }
        let mut challenge = [0; ROOM_MIN];
        let mut verified = |limiter: &RateLimiter| {
            let packet = limiter.verify_packet(Some(from.hop.ip()), datagram, &mut challenge);
            packet.map(|_| ()).map_err(|refusal| match refusal {
                TunnResult::WriteToNetwork(cookie) => Refusal::Challenge(cookie.to_vec()),
                TunnResult::Done
                | TunnResult::Err(_)
                | TunnResult::WriteToTunnelV4(..)
                | TunnResult::WriteToTunnelV6(..) => Refusal::Drop(DropReason::MalformedOuter),
            })
        };
        verified(&self.unlimited)?;
        if matches!(datagram.first(), Some(&(INITIATION | RESPONSE))) {
            let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
            if throttle.is_crowded(now) {
                verified(&self.strict)?;
                if !throttle.admits(from, now) {
                    return Err(Refusal::Drop(DropReason::UnderLoad));
                }
            }
        }
        let packet = Tunn::parse_incoming_packet(datagram)
            .map_err(|_| Refusal::Drop(DropReason::MalformedOuter))?;
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
    /// Sessions that we answered for, until the peer is seen to use them.
    unconfirmed: VecDeque<Answered>,
    /// The peer's indices of the sessions that both ends hold the keys of.
    confirmed: VecDeque<Index>,
    /// When the first handshake of a series was answered, of which none has been confirmed.
    answered: Option<Instant>,
    next_tick: Instant,
}

/// What one end calls a session in the messages that it is to receive.
type Index = [u8; 4];

/// A session that the peer asked for.
struct Answered {
    ours: Index,
    theirs: Index,
}

impl NoiseSession {
    /// Notes that keys may have expired. That boringtun has some does not say that the peer has them:
    /// it may show a session that was answered for, where the last one was.
    fn refresh(&mut self) {
        self.ready &= self.tunn.time_since_last_handshake().is_some();
    }

    /// Starts a handshake, unless one has just been answered. The peer is about to confirm that one,
    /// and to answer the one that we may have sent meanwhile, which a new one would make void: two
    /// that want to send would go on so for ever. (Linux waits after an answer as well.)
    fn initiation(&mut self, anew: bool, now: Instant) -> Option<Vec<u8>> {
        let recent = |at: Instant| now.saturating_duration_since(at) < ANSWER_HOLD;
        if self.answered.is_some_and(recent) {
            return None;
        }
        let mut buffer = vec![0; ROOM_MIN];
        let result = self.tunn.format_handshake_initiation(&mut buffer, anew);
        written(&result).map(|length| shortened(buffer, length))
    }

    /// Notes the reply to a handshake message, and tells whether it completes the handshake: that
    /// to a response does (a keepalive), that to an initiation (a response) is to be confirmed.
    fn note_reply(&mut self, message: &[u8], reply: &[u8], now: Instant) -> bool {
        let (Some(theirs), Some(ours)) = (index(message), index(reply)) else {
            return false;
        };
        match reply.first() {
            Some(&RESPONSE) => {
                push(&mut self.unconfirmed, Answered { ours, theirs });
                let same = |first: &Instant| now.saturating_duration_since(*first) < ANSWER_SERIES;
                self.answered = self.answered.filter(same).or(Some(now));
                false
            }
            Some(&DATA) => {
                self.complete(theirs);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Whether this authentic data is the first of a session that we answered for.
    fn confirms(&mut self, datagram: &[u8]) -> bool {
        let ours = index(datagram);
        let mut answered = self.unconfirmed.iter();
        let Some(position) = answered.position(|answered| Some(answered.ours) == ours) else {
            return false;
        };
        // Those before it have been overtaken.
        let newer = self.unconfirmed.split_off(position + 1);
        if let Some(answered) = std::mem::replace(&mut self.unconfirmed, newer).pop_back() {
            self.complete(answered.theirs);
        }
        true
    }

    /// Notes that both ends hold the keys of the session that the peer calls so.
    fn complete(&mut self, theirs: Index) {
        push(&mut self.confirmed, theirs);
        self.answered = None;
        self.ready = true;
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
        let length = written(&self.tunn.encapsulate(inner, room))?;
        let theirs = index(room);
        // The latest is the usual one.
        let confirmed = self.confirmed.iter().rev();
        if !confirmed.copied().any(|index| Some(index) == theirs) {
            // The peer may not have these keys.
            self.ready = false;
            return None;
        }
        Some(length)
    }

    fn initiate(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.initiation(false, now)
    }

    fn retry(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.initiation(true, now)
    }

    fn open(
        &mut self,
        datagram: &[u8],
        room: &mut [u8],
        now: Instant,
    ) -> Result<Opened, DropReason> {
        let is_data = datagram.first() == Some(&DATA);
        // An empty datagram asks boringtun for something else.
        if datagram.is_empty() || (is_data && counter(datagram)? > COUNTER_MAX) {
            return Err(DropReason::MalformedOuter);
        }
        let (length, completed) = match self.tunn.decapsulate(None, datagram, room) {
            TunnResult::WriteToNetwork(reply) => {
                let reply = reply.to_vec();
                let completed = self.note_reply(datagram, &reply, now);
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

/// The first index in a message: the sender's own in one of a handshake, else the receiver's.
fn index(message: &[u8]) -> Option<Index> {
    message.get(4..8)?.try_into().ok()
}

/// Remembers as many sessions as boringtun does.
fn push<T>(sessions: &mut VecDeque<T>, session: T) {
    if sessions.len() == SESSIONS {
        sessions.pop_front();
    }
    sessions.push_back(session);
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
    use crate::{HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SOURCE, OVERHEAD};

    /// Two ends, and what one of them says to the other.
    struct Ends([NoiseSession; 2]);

    impl Ends {
        fn new(now: Instant) -> Self {
            let keys = [(); 2].map(|()| PrivateKey::generate());
            let session = |own: &PrivateKey, other: &PrivateKey| {
                Noise::new(own.clone()).session(other.public_key(), 0, now)
            };
            Self([session(&keys[0], &keys[1]), session(&keys[1], &keys[0])])
        }

        fn open(&mut self, end: usize, message: &[u8], now: Instant) -> Opened {
            let mut room = [0; 2 * ROOM_MIN];
            self.0[end].open(message, &mut room, now).unwrap()
        }

        /// The answer of an end to a message.
        fn answer(&mut self, end: usize, message: &[u8], now: Instant) -> Vec<u8> {
            match self.open(end, message, now).content {
                Content::Reply(reply) => reply,
                other @ (Content::Inner(_)
                | Content::Malformed
                | Content::Keepalive
                | Content::Cookie) => panic!("{other:?}"),
            }
        }

        fn seals(&mut self, end: usize, now: Instant) -> bool {
            let sealed = self.0[end].seal(&[0; 40], &mut [0; ROOM_MIN], now);
            sealed.is_some()
        }
    }

    #[test]
    fn two_that_call_each_other_at_once_do_not_go_on_for_ever() {
        let now = Instant::now();
        let mut ends = Ends::new(now);
        let calls = [0, 1].map(|end| ends.0[end].initiate(now).unwrap());
        let answers = [0, 1].map(|end| ends.answer(end, &calls[1 - end], now));
        for end in [0, 1] {
            // Both have something to send.
            assert_eq!(ends.0[end].initiate(now), None);
            assert_eq!(ends.0[end].retry(now), None);
            assert!(!ends.seals(end, now));
        }
        for end in [0, 1] {
            let opened = ends.open(end, &answers[1 - end], now);
            assert!(opened.completed && ends.seals(end, now));
        }
        // An answer that is lost is not waited for longer.
        let mut ends = Ends::new(now);
        let call = ends.0[0].initiate(now).unwrap();
        ends.answer(1, &call, now);
        assert_eq!(ends.0[1].initiate(now + ANSWER_HOLD / 2), None);
        assert!(ends.0[1].initiate(now + ANSWER_HOLD).is_some());
    }

    #[test]
    fn nothing_is_sealed_with_keys_that_the_peer_may_not_have() {
        let now = Instant::now();
        for lost in 0..2 * SESSIONS {
            let mut ends = Ends::new(now);
            // So many calls are answered, and the answers are lost.
            for _ in 0..lost {
                let call = ends.0[0].retry(now).unwrap();
                ends.answer(1, &call, now);
                assert!(!ends.seals(1, now), "after {lost} lost answers");
            }
            let call = ends.0[0].retry(now).unwrap();
            let answer = ends.answer(1, &call, now);
            let keepalive = ends.answer(0, &answer, now);
            assert!(ends.open(1, &keepalive, now).completed);
            for end in [0, 1] {
                let mut room = [0; 2 * ROOM_MIN];
                // boringtun may still prefer one of the others: then a new handshake is made.
                if let Some(length) = ends.0[end].seal(&[0x60; 40], &mut room, now) {
                    let sealed = room[..length].to_vec();
                    let opened = ends.0[1 - end].open(&sealed, &mut room, now);
                    assert!(opened.is_ok(), "{lost} lost: {opened:?}");
                } else {
                    assert!(!ends.0[end].is_ready());
                    assert!(ends.0[end].initiate(now).is_some());
                }
            }
        }
    }

    #[test]
    fn a_second_mac_that_nobody_has_checked_costs_its_claimed_source_nothing() {
        let now = Instant::now();
        let (own, other) = (PrivateKey::generate(), PrivateKey::generate());
        let noise = Noise::new(own.clone());
        let mut session = Noise::new(other).session(own.public_key(), 0, now);
        let from = Origin {
            hop: ([192, 0, 2, 1], 51_820).into(),
            sender: None,
        };
        let mut forged = session.retry(now).unwrap();
        let macs = forged.len() - 16;
        forged[macs..].fill(1);
        for _ in 0..HANDSHAKES_PER_SECOND {
            assert!(noise.address(from, &forged, now).is_ok());
        }
        // Now it is checked: a cookie is asked for, once more and again.
        for _ in 0..2 * HANDSHAKES_PER_SOURCE {
            let refusal = noise.address(from, &forged, now);
            assert!(matches!(refusal, Err(Refusal::Challenge(_))), "{refusal:?}");
        }
        let Err(Refusal::Challenge(cookie)) = noise.address(from, &forged, now) else {
            panic!("no cookie");
        };
        let mut room = [0; ROOM_MIN];
        // It is for the message that the peer has sent, of which the first MAC is part.
        let opened = session.open(&cookie, &mut room, now).unwrap();
        assert_eq!(opened.content, Content::Cookie);
        for admitted in 0..2 * HANDSHAKES_PER_SOURCE {
            let genuine = session.retry(now).unwrap();
            let told = noise.address(from, &genuine, now);
            assert_eq!(told.is_ok(), admitted < HANDSHAKES_PER_SOURCE, "{told:?}");
        }
    }

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
