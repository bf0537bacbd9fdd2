//! Who may call this agent: enrolled operators, and invitations that wait to be redeemed.
//!
//! One file each, asked anew in every handshake: `fed agent invite` and a removal count at once,
//! from another process and without a signal.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use fed_rpc::Fingerprint;
use fed_rpc::tls::Admission;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::state::{self, StateError};

/// An operator who may call this agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// What the site's log calls them.
    pub name: String,
    /// Fingerprint of their key.
    pub fingerprint: String,
    /// When they were enrolled, in seconds since 1970.
    pub enrolled: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    expires: u64,
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
}

/// The operators and invitations of one agent.
#[derive(Clone, Debug)]
pub struct Roster {
    operators: PathBuf,
    invitations: PathBuf,
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
        };
        state::private_folder(&roster.operators)?;
        state::private_folder(&roster.invitations)?;
        Ok(roster)
    }

    /// Lets the holder of this key redeem it until `expires` (seconds since 1970).
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn invite(&self, holder: &Fingerprint, expires: u64) -> Result<(), StateError> {
        state::write_json(&file(&self.invitations, holder), &Pending { expires })
    }

    /// Everyone who is enrolled, by name.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn operators(&self) -> Result<Vec<Operator>, StateError> {
        let mut operators = Vec::new();
        for name in state::entries(&self.operators)? {
            operators.extend(state::read_json::<Operator>(&self.operators.join(name))?);
        }
        operators.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(operators)
    }

    /// Spends an invitation and enrols an operator in its place.
    pub(super) fn enrol(
        &self,
        invitation: &Fingerprint,
        operator: &Fingerprint,
        name: &str,
    ) -> Result<(), RosterError> {
        let pending = file(&self.invitations, invitation);
        if !self.is_pending(invitation) {
            return Err(RosterError::Spent);
        }
        // Of two that redeem one invitation, the one that removes the file has it.
        std::fs::remove_file(&pending).map_err(|_| RosterError::Spent)?;
        let enrolled = Operator {
            name: name.to_owned(),
            fingerprint: operator.to_string(),
            enrolled: unix_seconds(),
        };
        state::write_json(&file(&self.operators, operator), &enrolled)?;
        Ok(())
    }

    pub(super) fn role(&self, caller: &Fingerprint) -> Role {
        match state::read_json(&file(&self.operators, caller)) {
            Ok(Some(operator)) => Role::Operator(operator),
            Ok(None) if self.is_pending(caller) => Role::Invited,
            Ok(None) => Role::Stranger,
            Err(error) => {
                tracing::error!(%error, "an operator's file cannot be read");
                Role::Stranger
            }
        }
    }

    fn is_pending(&self, holder: &Fingerprint) -> bool {
        let pending = state::read_json::<Pending>(&file(&self.invitations, holder));
        matches!(pending, Ok(Some(pending)) if unix_seconds() < pending.expires)
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

fn file(folder: &Path, fingerprint: &Fingerprint) -> PathBuf {
    let mut name = String::with_capacity(70);
    for byte in fingerprint.as_bytes() {
        write!(name, "{byte:02x}").expect("a String takes what is written");
    }
    name.push_str(".json");
    folder.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_works_once_and_not_after_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let roster = Roster::open(&folder.path().join("state")).unwrap();
        let [invited, late, operator, stranger] =
            [1, 2, 3, 4].map(|n| Fingerprint::from_bytes([n; 32]));
        roster.invite(&invited, unix_seconds() + 60).unwrap();
        roster.invite(&late, unix_seconds() - 1).unwrap();
        assert_eq!(roster.role(&invited), Role::Invited);
        assert!(!roster.admit(&late) && !roster.admit(&stranger));
        assert!(matches!(
            roster.enrol(&late, &operator, "x"),
            Err(RosterError::Spent)
        ));
        roster.enrol(&invited, &operator, "alice").unwrap();
        assert!(matches!(
            roster.enrol(&invited, &operator, "x"),
            Err(RosterError::Spent)
        ));
        assert!(!roster.admit(&invited) && roster.admit(&operator));
        assert_eq!(roster.operators().unwrap()[0].name, "alice");
    }
}
