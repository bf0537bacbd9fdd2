//! The agent's own key, and the one that it changes to.
//!
//! A new key is announced for a while before it is used: each operator who calls in that time
//! learns it over a connection that the old key vouches for, and takes either from then on.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fed_rpc::identity::StoreError;
use fed_rpc::{Fingerprint, Identity};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::roster::unix_seconds;
use crate::state::{self, StateError};

/// Why the agent's key could not be changed.
#[derive(Debug, Error)]
pub enum KeyError {
    /// A key cannot be read or written.
    #[error(transparent)]
    Identity(#[from] StoreError),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Says why an agent's key cannot be used, and what to do.
pub(super) fn unusable(error: &StoreError) -> String {
    if let StoreError::Read { source, .. } = error
        && source.kind() == ErrorKind::NotFound
    {
        return format!(
            "this agent has no key yet ({error}: {source}); run `fed agent init` first"
        );
    }
    error.to_string()
}

/// A key that is announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Its fingerprint.
    #[serde(with = "as_text")]
    pub fingerprint: Fingerprint,
    /// When the agent changes to it, in seconds since 1970.
    pub from: u64,
}

mod as_text {
    use fed_rpc::Fingerprint;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(key: &Fingerprint, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(key)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The keys in an agent's state folder.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    folder: PathBuf,
}

impl Keys {
    pub(super) fn of(state: &Path) -> Self {
        Self {
            folder: state.join("identity"),
        }
    }

    /// The key that the agent uses.
    pub(super) fn own(&self) -> Result<Identity, StoreError> {
        Identity::load(&self.own_file())
    }

    /// The key that the agent uses, made if there is none.
    pub(super) fn own_or_new(&self, name: &str) -> Result<Identity, KeyError> {
        state::private_folder(&self.folder)?;
        Ok(Identity::load_or_create(&self.own_file(), name)?)
    }

    /// The key that is announced, if any.
    pub(super) fn announced(&self) -> Result<Option<Announced>, StateError> {
        state::read_json(&self.announcement())
    }

    /// Makes a new key and announces it; the agent changes to it `after` this. If one is announced
    /// already, only the time changes.
    pub(super) fn announce(&self, name: &str, after: Duration) -> Result<Announced, KeyError> {
        let next = Identity::load_or_create(&self.next_file(), name)?;
        let announced = Announced {
            fingerprint: next.fingerprint(),
            from: unix_seconds().saturating_add(after.as_secs()),
        };
        state::write_json(&self.announcement(), &announced)?;
        Ok(announced)
    }

    /// Changes to the announced key, if its time has come. Returns the new key then.
    pub(super) fn change(&self) -> Result<Option<Identity>, KeyError> {
        let Some(announced) = self.announced()? else {
            return Ok(None);
        };
        if unix_seconds() < announced.from {
            return Ok(None);
        }
        // An earlier change may have been cut off between the two steps.
        let next = self.next_file();
        if next.exists() {
            Identity::load(&next)?.save(&self.own_file())?;
            state::remove(&next)?;
        }
        state::remove(&self.announcement())?;
        Ok(Some(self.own()?))
    }

    fn own_file(&self) -> PathBuf {
        self.folder.join("agent.pem")
    }

    fn next_file(&self) -> PathBuf {
        self.folder.join("next.pem")
    }

    fn announcement(&self) -> PathBuf {
        self.folder.join("next.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (tempfile::TempDir, Keys) {
        let folder = tempfile::tempdir().unwrap();
        let keys = Keys::of(&folder.path().join("state"));
        keys.own_or_new("ecmwf").unwrap();
        (folder, keys)
    }

    #[test]
    fn a_key_is_announced_before_it_is_used() {
        let (_folder, keys) = keys();
        let old = keys.own().unwrap().fingerprint();
        assert_eq!(keys.announced().unwrap(), None);
        let announced = keys.announce("ecmwf", Duration::from_secs(3600)).unwrap();
        assert_ne!(announced.fingerprint, old);
        assert_eq!(keys.announced().unwrap(), Some(announced));
        assert!(keys.change().unwrap().is_none());
        assert_eq!(keys.own().unwrap().fingerprint(), old);
        // Sooner than was said first; the key stays.
        let now = keys.announce("ecmwf", Duration::ZERO).unwrap();
        assert_eq!(now.fingerprint, announced.fingerprint);
        let new = keys.change().unwrap().unwrap();
        assert_eq!(new.fingerprint(), announced.fingerprint);
        assert_eq!(keys.own().unwrap().fingerprint(), new.fingerprint());
        assert_eq!(keys.announced().unwrap(), None);
        assert!(keys.change().unwrap().is_none());
    }

    #[test]
    fn init_is_named_where_it_helps() {
        let (folder, keys) = keys();
        let error = Keys::of(folder.path()).own().unwrap_err();
        let told = unusable(&error);
        assert!(
            told.starts_with("this agent has no key yet (cannot read "),
            "{told}"
        );
        assert!(told.ends_with("run `fed agent init` first"), "{told}");
        std::fs::write(keys.own_file(), "no key").unwrap();
        let told = unusable(&keys.own().unwrap_err());
        assert!(!told.contains("agent init"), "{told}");
    }

    #[test]
    fn a_change_that_was_cut_off_is_finished() {
        let (_folder, keys) = keys();
        let announced = keys.announce("ecmwf", Duration::ZERO).unwrap();
        Identity::load(&keys.next_file())
            .unwrap()
            .save(&keys.own_file())
            .unwrap();
        let new = keys.change().unwrap().unwrap();
        assert_eq!(new.fingerprint(), announced.fingerprint);
        let announced = keys.announce("ecmwf", Duration::ZERO).unwrap();
        Identity::load(&keys.next_file())
            .unwrap()
            .save(&keys.own_file())
            .unwrap();
        state::remove(&keys.next_file()).unwrap();
        assert_eq!(
            keys.change().unwrap().unwrap().fingerprint(),
            announced.fingerprint
        );
    }
}
