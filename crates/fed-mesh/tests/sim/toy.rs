//! A toy of the WireGuard protocol that lives on the time it is handed: the same messages, timers
//! and replay rules, with hashes in place of cryptography.

use std::collections::{BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use fed_mesh::{
    Addressee, Content, DropReason, Opened, Origin, Protocol, PublicKey, Refusal, Session, Tick,
};

// The timers of the WireGuard paper, section 6.1.
const REKEY_AFTER: Duration = Duration::from_secs(120);
const REJECT_AFTER: Duration = Duration::from_secs(180);
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const NO_ANSWER: Duration = Duration::from_secs(15);

const SESSIONS: usize = 8;
const TAG: usize = 8;

/// The toy protocol of one router.
pub(crate) struct Toy {
    pub(crate) own: PublicKey,
    /// Where the stamps of initiations count from.
    pub(crate) epoch: Instant,
}

impl Protocol for Toy {
    type Session = ToySession;

    fn public_key(&self) -> PublicKey {
        self.own
    }

    fn session(&self, peer: PublicKey, slot: u32, _now: Instant) -> ToySession {
        ToySession {
            own: self.own,
            peer,
            epoch: self.epoch,
            next_index: slot << 8,
            initiation: None,
            sessions: VecDeque::new(),
            current: None,
            stamp: None,
            unanswered: None,
        }
    }

    fn address(&self, _from: Origin, datagram: &[u8], _now: Instant) -> Result<Addressee, Refusal> {
        let malformed = Refusal::Drop(DropReason::MalformedOuter);
        let mut reader = Reader(datagram);
        match reader.take() {
            Some([1]) => {
                let _sender: Option<[u8; 4]> = reader.take();
                let key = reader.take().ok_or(malformed)?;
                Ok(Addressee::Key(PublicKey::from_bytes(key)))
            }
            Some([2 | 4]) => {
                let index = reader.take().map(u32::from_le_bytes).ok_or(malformed)?;
                Ok(Addressee::Slot(index >> 8))
            }
            _ => Err(malformed),
        }
    }
}

/// The toy protocol with one peer.
pub(crate) struct ToySession {
    own: PublicKey,
    peer: PublicKey,
    epoch: Instant,
    next_index: u32,
    initiation: Option<Initiation>,
    sessions: VecDeque<Keys>,
    /// Our index of the session to send with.
    current: Option<u32>,
    /// The stamp of the last initiation answered.
    stamp: Option<u64>,
    /// When data went out that nothing has come back for.
    unanswered: Option<Instant>,
}

struct Initiation {
    /// The index of this attempt, and of the one before it.
    indices: [Option<u32>; 2],
    first: Instant,
    last: Instant,
}

struct Keys {
    local: u32,
    remote: u32,
    secret: u64,
    made: Instant,
    initiator: bool,
    confirmed: bool,
    sent: u64,
    seen: BTreeSet<u64>,
}

impl ToySession {
    fn index(&mut self) -> u32 {
        let low = (self.next_index as u8).wrapping_add(1);
        self.next_index = (self.next_index & !0xff) | u32::from(low);
        self.next_index
    }

    fn keys(&mut self, index: u32) -> Option<&mut Keys> {
        self.sessions.iter_mut().find(|keys| keys.local == index)
    }

    fn add(&mut self, local: u32, remote: u32, initiator: bool, now: Instant) {
        let (ours, theirs) = ((self.own, local), (self.peer, remote));
        let secret = if initiator {
            hash(&(ours, theirs))
        } else {
            hash(&(theirs, ours))
        };
        self.sessions.retain(|keys| keys.local != local);
        if self.sessions.len() == SESSIONS {
            self.sessions.pop_front();
        }
        self.sessions.push_back(Keys {
            local,
            remote,
            secret,
            made: now,
            initiator,
            confirmed: initiator,
            sent: 0,
            seen: BTreeSet::new(),
        });
    }

    fn initiation(&mut self, now: Instant) -> Vec<u8> {
        let index = self.index();
        let before = self.initiation.take();
        self.initiation = Some(Initiation {
            indices: [Some(index), before.as_ref().and_then(|i| i.indices[0])],
            first: before.map_or(now, |i| i.first),
            last: now,
        });
        let stamp = now.duration_since(self.epoch).as_nanos() as u64;
        let mut message = vec![1];
        message.extend(index.to_le_bytes());
        message.extend(self.own.as_bytes());
        message.extend(stamp.to_le_bytes());
        tagged(message, hash(&(self.own, self.peer)))
    }

    fn answer(&mut self, message: &[u8], now: Instant) -> Option<Opened> {
        let mut reader = Reader(untagged(message, hash(&(self.peer, self.own)))?);
        let _kind: [u8; 1] = reader.take()?;
        let remote = u32::from_le_bytes(reader.take()?);
        let _sender: [u8; 32] = reader.take()?;
        let stamp = u64::from_le_bytes(reader.take()?);
        if self.stamp.is_some_and(|last| stamp <= last) {
            return None;
        }
        self.stamp = Some(stamp);
        let local = self.index();
        self.add(local, remote, false, now);
        let mut reply = vec![2];
        reply.extend(remote.to_le_bytes());
        reply.extend(local.to_le_bytes());
        Some(Opened {
            content: Content::Reply(tagged(reply, hash(&(self.own, self.peer)))),
            completed: false,
        })
    }

    fn complete(&mut self, message: &[u8], now: Instant) -> Option<Opened> {
        let mut reader = Reader(untagged(message, hash(&(self.peer, self.own)))?);
        let _kind: [u8; 1] = reader.take()?;
        let local = u32::from_le_bytes(reader.take()?);
        let remote = u32::from_le_bytes(reader.take()?);
        let initiation = self.initiation.as_ref()?;
        if !initiation.indices.contains(&Some(local)) {
            return None;
        }
        self.initiation = None;
        self.add(local, remote, true, now);
        self.current = Some(local);
        Some(Opened {
            content: Content::Reply(self.sealed(&[], now)?),
            completed: true,
        })
    }

    fn data(&mut self, message: &[u8], room: &mut [u8]) -> Result<Opened, DropReason> {
        let undecryptable = DropReason::Undecryptable;
        let local = message.get(1..5).and_then(|b| b.try_into().ok());
        let keys = self
            .keys(u32::from_le_bytes(local.ok_or(undecryptable)?))
            .ok_or(undecryptable)?;
        let body = untagged(message, keys.secret).ok_or(undecryptable)?;
        let mut reader = Reader(&body[5..]);
        let counter = reader.take().map(u64::from_le_bytes).ok_or(undecryptable)?;
        if !keys.seen.insert(counter) {
            return Err(DropReason::Replayed);
        }
        let inner = crypted(reader.0, keys.secret, counter);
        let completed = !keys.confirmed;
        keys.confirmed = true;
        let (local, made) = (keys.local, keys.made);
        let current = self.current.and_then(|index| self.keys(index));
        if current.is_none_or(|current| current.made <= made) {
            self.current = Some(local);
        }
        Ok(Opened {
            content: if inner.is_empty() {
                Content::Keepalive
            } else {
                room[..inner.len()].copy_from_slice(&inner);
                Content::Inner(inner.len())
            },
            completed,
        })
    }
}

impl ToySession {
    fn sealed(&mut self, inner: &[u8], now: Instant) -> Option<Vec<u8>> {
        let keys = self.current.and_then(|index| self.keys(index))?;
        let counter = keys.sent;
        keys.sent += 1;
        let mut message = vec![4];
        message.extend(keys.remote.to_le_bytes());
        message.extend(counter.to_le_bytes());
        message.extend(crypted(inner, keys.secret, counter));
        let message = tagged(message, keys.secret);
        if !inner.is_empty() {
            self.unanswered.get_or_insert(now);
        }
        Some(message)
    }
}

impl Session for ToySession {
    fn is_ready(&self) -> bool {
        self.current.is_some()
    }

    fn seal(&mut self, inner: &[u8], room: &mut [u8], now: Instant) -> Option<usize> {
        let message = self.sealed(inner, now)?;
        room[..message.len()].copy_from_slice(&message);
        Some(message.len())
    }

    fn initiate(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.initiation.is_none().then(|| self.initiation(now))
    }

    fn retry(&mut self, now: Instant) -> Option<Vec<u8>> {
        Some(self.initiation(now))
    }

    fn open(
        &mut self,
        datagram: &[u8],
        room: &mut [u8],
        now: Instant,
    ) -> Result<Opened, DropReason> {
        let opened = match datagram.first() {
            Some(1) => self.answer(datagram, now),
            Some(2) => self.complete(datagram, now),
            _ => Some(self.data(datagram, room)?),
        };
        let opened = opened.ok_or(DropReason::HandshakeRefused)?;
        self.unanswered = None;
        Ok(opened)
    }

    fn tick(&mut self, now: Instant) -> Tick {
        self.sessions.retain(|keys| keys.made + REJECT_AFTER > now);
        let current = self.current.and_then(|index| self.keys(index));
        let stale = current
            .as_ref()
            .is_some_and(|keys| keys.initiator && keys.made + REKEY_AFTER <= now);
        if current.is_none() {
            self.current = None;
        }
        let mut tick = Tick::default();
        match &self.initiation {
            Some(initiation) if initiation.first + REKEY_ATTEMPT <= now => {
                // As boringtun does: what could not be renewed is thrown away.
                self.initiation = None;
                self.sessions.clear();
                self.current = None;
                self.unanswered = None;
                tick.given_up = true;
            }
            Some(initiation) if initiation.last + REKEY_TIMEOUT <= now => {
                (tick.datagram, tick.asks) = (Some(self.initiation(now)), true);
            }
            Some(_) => {}
            None => {
                if stale || self.unanswered.is_some_and(|at| at + NO_ANSWER <= now) {
                    self.unanswered = None;
                    (tick.datagram, tick.asks) = (Some(self.initiation(now)), true);
                }
            }
        }
        tick
    }

    fn deadline(&self) -> Option<Instant> {
        let expiry = self.sessions.iter().map(|keys| keys.made + REJECT_AFTER);
        let initiation = self.initiation.as_ref();
        let retry = initiation.map(|i| (i.last + REKEY_TIMEOUT).min(i.first + REKEY_ATTEMPT));
        let renewal = self
            .sessions
            .iter()
            .find(|keys| Some(keys.local) == self.current && keys.initiator)
            .map(|keys| keys.made + REKEY_AFTER);
        let no_answer = self.unanswered.map(|at| at + NO_ANSWER);
        let idle = [renewal, no_answer].into_iter().flatten();
        let next = retry.or_else(|| idle.min());
        expiry.chain(next).min()
    }
}

/// Reads fixed pieces off the front.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (piece, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*piece)
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn tagged(mut message: Vec<u8>, secret: u64) -> Vec<u8> {
    let tag = hash(&(secret, &message));
    message.extend(tag.to_le_bytes());
    message
}

fn untagged(message: &[u8], secret: u64) -> Option<&[u8]> {
    let (body, tag) = message.split_at_checked(message.len().checked_sub(TAG)?)?;
    (hash(&(secret, body)).to_le_bytes() == tag).then_some(body)
}

fn crypted(bytes: &[u8], secret: u64, counter: u64) -> Vec<u8> {
    let pad = hash(&(secret, counter)).to_le_bytes();
    bytes
        .iter()
        .zip(pad.iter().cycle())
        .map(|(byte, pad)| byte ^ pad)
        .collect()
}
