//! Who may call this agent: enrolled operators, and invitations that wait to be redeemed.
//!
//! One file each, asked anew in every handshake: `fed agent invite` and a removal count at once,
//! from another process and without a signal.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fed_core::nearest;
use fed_rpc::Fingerprint;
use fed_rpc::tls::Admission;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::state::{self, Lock, StateError};

/// How long it is remembered whose a key was that counts no more, for the log.
const MEMORY: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many keys may come between an operator's first and the present one: none is forgotten, since
/// limits may be written for it.
const BETWEEN_MAX: usize = 256;

/// A key with which an operator may call this agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// What the site's log calls them.
    pub name: String,
    /// Fingerprint of their key.
    pub fingerprint: String,
    /// When they were enrolled, in seconds since 1970.
    pub enrolled: u64,
    /// Whether the site chose the name (`fed agent invite --operator`), so that limits by name hold.
    #[serde(default)]
    pub named_by_site: bool,
    /// The key that they were enrolled with, if this one has replaced it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
    /// The keys that came between that one and this one, by their latest use, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub between: Vec<String>,
    /// When this key ceases to count, in seconds since 1970, if another has replaced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl Operator {
    /// An operator with one key.
    pub(super) fn new(name: &str, fingerprint: &str, enrolled: u64) -> Self {
        Self {
            name: name.to_owned(),
            fingerprint: fingerprint.to_owned(),
            enrolled,
            named_by_site: false,
            first: None,
            between: Vec::new(),
            until: None,
        }
    }

    /// What stays the same whatever key they use: federations belong to it.
    pub fn id(&self) -> &str {
        self.first.as_deref().unwrap_or(&self.fingerprint)
    }

    /// Their keys, the latest first (one that was used again stands there twice): what a site writes
    /// of one holds for those that follow.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        let earlier = self.between.iter().rev().map(String::as_str);
        let first = self.first.as_deref();
        std::iter::once(self.fingerprint.as_str())
            .chain(earlier)
            .chain(first)
    }

    /// Whether a key is theirs, or was.
    pub(super) fn goes_by(&self, key: &str) -> bool {
        self.keys().any(|own| own == key)
    }

    /// The keys that come before `next`, by their latest use. The first is among them only if it was
    /// used again.
    ///
    /// # Errors
    /// [`RosterError::TooMany`].
    fn before(&self, next: &str) -> Result<Vec<String>, RosterError> {
        let mut keys: Vec<String> = Vec::new();
        for key in self.keys() {
            if key != next && !keys.iter().any(|later| later == key) {
                keys.push(key.to_owned());
            }
        }
        keys.pop_if(|oldest| oldest == self.id());
        keys.reverse();
        if keys.len() > BETWEEN_MAX {
            return Err(RosterError::TooMany {
                operator: self.name.clone(),
            });
        }
        Ok(keys)
    }

    fn removed(&self) -> RosterError {
        RosterError::Removed {
            operator: self.name.clone(),
        }
    }

    fn replaced(&self) -> RosterError {
        RosterError::Replaced {
            operator: self.name.clone(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    expires: u64,
    /// What the operator is called, if the site has chosen it.
    #[serde(default)]
    operator: Option<String>,
}

/// The key of an operator that no other has replaced, of those that count.
///
/// There are two after a change that was cut off: then it is the one that knows more keys.
pub(super) fn present<'a>(operators: &'a [Operator], id: &str) -> Option<&'a Operator> {
    let own = operators.iter().filter(|operator| operator.id() == id);
    own.filter(|operator| operator.until.is_none())
        .max_by_key(|operator| operator.keys().count())
}

/// A key that counted once.
#[derive(Debug, Serialize, Deserialize)]
struct Past {
    what: String,
    since: u64,
}

/// What a caller may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Everything that concerns their own federations.
    Operator(Operator),
    /// `Enrol`, once.
    Invited,
    /// Nothing.
    Stranger,
}

/// Why the roster could not be changed.
#[derive(Debug, Error)]
pub enum RosterError {
    /// Its files could not be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The invitation is gone or too old.
    #[error(
        "this invitation has been used or has expired; ask the site for a new one (`fed agent invite`)"
    )]
    Spent,
    /// Another operator has the key.
    #[error("this key is another operator's here; make a new one")]
    Taken,
    /// The key is enrolled, and the site has chosen another name for whoever redeems the invitation.
    #[error(
        "this key is enrolled here as {enrolled} already, and the invitation is for {invited}; ask \
         the site for an invitation for {enrolled}, or to remove {enrolled} first \
         (`fed agent operators remove`)"
    )]
    OtherName {
        /// Who has the key.
        enrolled: String,
        /// Whom the invitation is for.
        invited: String,
    },
    /// The key has been replaced by another one of its operator's.
    #[error(
        "this key was {operator}'s here until another replaced it; use that one, or have the site \
         remove {operator} first (`fed agent operators remove`)"
    )]
    Replaced {
        /// Whose it was.
        operator: String,
    },
    /// The operator has changed keys too often.
    #[error(
        "{operator} has changed keys {BETWEEN_MAX} times; to change again, have the site remove \
         {operator} (`fed agent operators remove`) and invite anew, and correct what its agent.toml \
         says of the old keys"
    )]
    TooMany {
        /// Who.
        operator: String,
    },
    /// The operator was removed while the call was under way.
    #[error("the site has removed {operator}; ask it for an invitation (`fed agent invite`)")]
    Removed {
        /// Who has been removed.
        operator: String,
    },
    /// Nobody is called so.
    #[error("no operator is called {given}{}; `fed agent operators` lists them", .nearest.as_ref().map(|name| format!(" (did you mean {name}?)")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        given: String,
        /// What may have been meant.
        nearest: Option<String>,
    },
    /// Several are called so.
    #[error("{} operators are called {name}; name one by its fingerprint: {}", .fingerprints.len(), .fingerprints.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// Their keys.
        fingerprints: Vec<String>,
    },
}

/// The operators and invitations of one agent.
#[derive(Clone, Debug)]
pub struct Roster {
    operators: PathBuf,
    invitations: PathBuf,
    past: PathBuf,
    /// Held by whoever changes which keys count: the agent, or a command beside it.
    lock: PathBuf,
}

impl Roster {
    /// Opens the roster in an agent's state folder.
    ///
    /// # Errors
    /// If its folders cannot be made.
    pub fn open(state: &Path) -> Result<Self, StateError> {
        let roster = Self {
            operators: state.join("operators"),
            invitations: state.join("invitations"),
            past: state.join("past-keys"),
            lock: state.join("roster.lock"),
        };
        for folder in [&roster.operators, &roster.invitations, &roster.past] {
            state::private_folder(folder)?;
        }
        Ok(roster)
    }

    /// Lets the holder of this key redeem it until `expires` (seconds since 1970); `operator` is
    /// what they are called then, if the site chooses it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn invite(
        &self,
        holder: &Fingerprint,
        expires: u64,
        operator: Option<&str>,
    ) -> Result<(), StateError> {
        let operator = operator.map(str::to_owned);
        let pending = Pending { expires, operator };
        state::write_json(&file(&self.invitations, holder), &pending)
    }

    /// Every key that counts, by the operators' names.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn operators(&self) -> Result<Vec<Operator>, StateError> {
        let mut operators = Vec::new();
        for name in names(&self.operators)? {
            operators.extend(state::read_json::<Operator>(&self.operators.join(name))?);
        }
        let now = unix_seconds();
        operators.retain(|operator| operator.until.is_none_or(|until| now < until));
        operators
            .sort_by(|left, right| (&left.name, left.enrolled).cmp(&(&right.name, right.enrolled)));
        Ok(operators)
    }

    /// Takes an operator off the roster, with all their keys: none of them counts from now on.
    /// `given` is a name or a fingerprint. Returns the keys. It needs no room on the disk: what they
    /// were is remembered afterwards, if it can be.
    ///
    /// # Errors
    /// [`RosterError::Unknown`], [`RosterError::Ambiguous`], or if a file cannot be changed.
    pub fn remove(&self, given: &str) -> Result<Vec<Operator>, RosterError> {
        let _lock = Lock::take(&self.lock)?;
        let operators = self.operators()?;
        let meant = |operator: &&Operator| operator.name == given || operator.goes_by(given);
        let ids: BTreeSet<&str> = operators.iter().filter(meant).map(Operator::id).collect();
        if ids.is_empty() {
            let names = operators.iter().map(|operator| operator.name.as_str());
            return Err(RosterError::Unknown {
                given: given.to_owned(),
                nearest: nearest(given, names).map(str::to_owned),
            });
        }
        if ids.len() > 1 {
            let now = operators.iter().filter(meant);
            let now = now.filter(|operator| operator.until.is_none());
            return Err(RosterError::Ambiguous {
                name: given.to_owned(),
                fingerprints: now.map(|operator| operator.fingerprint.clone()).collect(),
            });
        }
        let keys = operators
            .iter()
            .filter(|operator| ids.contains(operator.id()));
        let keys: Vec<Operator> = keys.cloned().collect();
        let parsed = keys.iter().filter_map(|key| key.fingerprint.parse().ok());
        let fingerprints: Vec<Fingerprint> = parsed.collect();
        for fingerprint in &fingerprints {
            state::remove(&file(&self.operators, fingerprint))?;
        }
        let what = format!("removed operator {}", keys[0].name);
        for fingerprint in &fingerprints {
            if let Err(error) = self.retire(fingerprint, &what) {
                tracing::warn!(
                    %error,
                    "the key {fingerprint} counts no more, but the audit log will call it a stranger's"
                );
            }
        }
        Ok(keys)
    }

    /// Spends an invitation and enrols an operator in its place, who asks to be called `name` and has
    /// proved to hold the key.
    ///
    /// A key that is enrolled keeps its name and what it runs; where the invitation is for another
    /// name, or the key was replaced, the invitation is not spent.
    pub(super) fn enrol(
        &self,
        invitation: &Fingerprint,
        operator: &Fingerprint,
        name: &str,
    ) -> Result<Operator, RosterError> {
        let _lock = Lock::take(&self.lock)?;
        let pending = self.pending(invitation).ok_or(RosterError::Spent)?;
        let path = file(&self.operators, operator);
        let known = state::read_json::<Operator>(&path)?;
        self.may_enrol(operator, known.as_ref(), pending.operator.as_deref())?;
        // Of two that redeem one invitation, the one that removes the file has it.
        std::fs::remove_file(file(&self.invitations, invitation))
            .map_err(|_| RosterError::Spent)?;
        self.retire(invitation, "used invitation")?;
        let named_by_site = pending.operator.is_some();
        let enrolled = match known {
            Some(known) => Operator {
                named_by_site: named_by_site || known.named_by_site,
                ..known
            },
            None => Operator {
                named_by_site,
                ..Operator::new(
                    pending.operator.as_deref().unwrap_or(name),
                    &operator.to_string(),
                    unix_seconds(),
                )
            },
        };
        state::write_json(&path, &enrolled)?;
        Ok(enrolled)
    }

    /// Refuses a key that has, or had, another name or another key in its place.
    fn may_enrol(
        &self,
        key: &Fingerprint,
        known: Option<&Operator>,
        invited: Option<&str>,
    ) -> Result<(), RosterError> {
        match (known, invited) {
            (Some(known), _) if known.until.is_some() => Err(known.replaced()),
            (Some(known), Some(invited)) if known.name != invited => Err(RosterError::OtherName {
                enrolled: known.name.clone(),
                invited: invited.to_owned(),
            }),
            (Some(_), _) => Ok(()),
            // Whoever was enrolled with it first is known by it still: enrolled anew, it would have
            // a part in what they run.
            (None, _) => {
                let (key, operators) = (key.to_string(), self.operators()?);
                let successor = operators.iter().find(|operator| operator.goes_by(&key));
                successor.map_or(Ok(()), |operator| Err(operator.replaced()))
            }
        }
    }

    /// Lets an operator call with this key; their others count until `until` (seconds since 1970)
    /// at most.
    ///
    /// A caller whose key was replaced can only name the key that counts in its place, as one does
    /// that was cut off before it had the answer: an old key neither makes a new one nor lasts.
    pub(super) fn rotate(
        &self,
        operator: &Operator,
        new: &Fingerprint,
        until: u64,
    ) -> Result<(), RosterError> {
        let _lock = Lock::take(&self.lock)?;
        // The caller's role was read without the lock.
        let operator = &self.still(operator)?;
        let known = state::read_json::<Operator>(&file(&self.operators, new))?;
        // A key by which another operator still goes is that one's, even after it was replaced.
        let goes_by_it = |other: &Operator| other.goes_by(&new.to_string());
        let others = self.operators()?.into_iter().filter(goes_by_it);
        if known
            .iter()
            .cloned()
            .chain(others)
            .any(|other| other.id() != operator.id())
        {
            return Err(RosterError::Taken);
        }
        let counts = known.as_ref().is_some_and(|known| known.until.is_none());
        if operator.until.is_some() && !counts {
            return Err(operator.replaced());
        }
        let present = self.present(operator)?;
        let new_key = Operator {
            fingerprint: new.to_string(),
            first: Some(operator.id().to_owned()).filter(|first| *first != new.to_string()),
            between: present.before(&new.to_string())?,
            until: None,
            ..present
        };
        // The new one first: between the writes all of them count.
        state::write_json(&file(&self.operators, new), &new_key)?;
        for key in self.operators()? {
            if key.id() != operator.id() || key.fingerprint == new_key.fingerprint {
                continue;
            }
            if let Ok(old) = key.fingerprint.parse::<Fingerprint>() {
                let until = Some(key.until.map_or(until, |before| before.min(until)));
                state::write_json(&file(&self.operators, &old), &Operator { until, ..key })?;
            }
        }
        Ok(())
    }

    /// The operator by the key that no other has replaced, whichever they call with: limits are those
    /// of this one.
    ///
    /// # Errors
    /// [`RosterError::Removed`], or that a file cannot be read which may be theirs.
    pub(super) fn present(&self, operator: &Operator) -> Result<Operator, RosterError> {
        let (mut operators, mut unreadable) = (Vec::new(), None);
        for name in names(&self.operators)? {
            match state::read_json::<Operator>(&self.operators.join(name)) {
                Ok(operator) => operators.extend(operator),
                Err(error) => unreadable = Some(error),
            }
        }
        match (present(&operators, operator.id()), unreadable) {
            (Some(present), _) => Ok(present.clone()),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(operator.removed()),
        }
    }

    /// What is written down of an operator's key now.
    fn still(&self, operator: &Operator) -> Result<Operator, RosterError> {
        let removed = || operator.removed();
        let key: Fingerprint = operator.fingerprint.parse().map_err(|_| removed())?;
        let written = state::read_json::<Operator>(&file(&self.operators, &key))?;
        written
            .filter(|written| written.id() == operator.id())
            .ok_or_else(removed)
    }

    pub(super) fn role(&self, caller: &Fingerprint) -> Role {
        match state::read_json::<Operator>(&file(&self.operators, caller)) {
            Ok(Some(operator)) if operator.until.is_none_or(|until| unix_seconds() < until) => {
                Role::Operator(operator)
            }
            Ok(_) if self.pending(caller).is_some() => Role::Invited,
            Ok(_) => Role::Stranger,
            Err(error) => {
                tracing::error!(%error, "an operator's file cannot be read");
                Role::Stranger
            }
        }
    }

    /// True if some key of this operator counts.
    pub(super) fn knows(&self, id: &str) -> Result<bool, StateError> {
        Ok(self.operators()?.iter().any(|operator| operator.id() == id))
    }

    /// What is known of a key that is refused.
    pub(super) fn past(&self, key: &Fingerprint) -> String {
        match state::read_json::<Past>(&file(&self.past, key)) {
            Ok(Some(past)) => past.what,
            Ok(None) => match state::read_json::<Pending>(&file(&self.invitations, key)) {
                Ok(Some(_)) => "expired invitation".to_owned(),
                _ => "stranger".to_owned(),
            },
            Err(error) => error.to_string(),
        }
    }

    /// Removes the files of keys that count no more. Returns how many there were.
    pub(super) fn sweep(&self) -> Result<usize, StateError> {
        let _lock = Lock::take(&self.lock)?;
        let (now, mut swept) = (unix_seconds(), 0);
        for name in names(&self.invitations)? {
            let path = self.invitations.join(&name);
            if state::read_json::<Pending>(&path)?.is_some_and(|pending| pending.expires <= now) {
                self.remember(&name, "expired invitation")?;
                state::remove(&path)?;
                swept += 1;
            }
        }
        for name in names(&self.operators)? {
            let path = self.operators.join(&name);
            if let Some(old) = state::read_json::<Operator>(&path)?
                && old.until.is_some_and(|until| until <= now)
            {
                self.remember(&name, &format!("old key of operator {}", old.name))?;
                state::remove(&path)?;
                swept += 1;
            }
        }
        for name in names(&self.past)? {
            let path = self.past.join(&name);
            let past = state::read_json::<Past>(&path)?;
            if past.is_some_and(|past| past.since + MEMORY.as_secs() <= now) {
                state::remove(&path)?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    fn retire(&self, key: &Fingerprint, what: &str) -> Result<(), StateError> {
        let path = file(&self.past, key);
        let name = path.file_name().and_then(|name| name.to_str());
        self.remember(name.expect("made of hexadecimal digits"), what)
    }

    fn remember(&self, name: &str, what: &str) -> Result<(), StateError> {
        let past = Past {
            what: what.to_owned(),
            since: unix_seconds(),
        };
        state::write_json(&self.past.join(name), &past)
    }

    fn pending(&self, holder: &Fingerprint) -> Option<Pending> {
        let pending = state::read_json::<Pending>(&file(&self.invitations, holder));
        pending
            .ok()?
            .filter(|pending| unix_seconds() < pending.expires)
    }
}

impl Admission for Roster {
    fn admit(&self, peer: &Fingerprint) -> bool {
        self.role(peer) != Role::Stranger
    }
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Names of the files of keys in a folder: a write that was cut off leaves others.
fn names(folder: &Path) -> Result<Vec<String>, StateError> {
    let mut names = state::entries(folder)?;
    names.retain(|name| name.ends_with(".json"));
    Ok(names)
}

fn file(folder: &Path, fingerprint: &Fingerprint) -> PathBuf {
    let mut name = String::with_capacity(70);
    for byte in fingerprint.as_bytes() {
        write!(name, "{byte:02x}").expect("a String takes what is written");
    }
    name.push_str(".json");
    folder.join(name)
}

#[cfg(test)]
mod tests;
