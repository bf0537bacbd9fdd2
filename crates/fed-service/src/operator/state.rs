//! What an operator keeps: an identity, the sites, and a folder for each federation.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use fed_core::{FederationId, FederationName, SiteName, nearest};
use fed_rpc::Identity;
use fed_rpc::identity::StoreError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::rotation::RotateError;
use crate::node::NodeFolder;
use crate::state::{self, Lock, StateError};

/// What the operator's certificate calls its holder.
const IDENTITY: &str = "fed-operator";

/// A site that this operator is enrolled at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Recorded", into = "Recorded")]
pub struct Site {
    /// How its agent and this operator come together.
    pub way: Way,
    /// Fingerprint of its agent's key.
    pub fingerprint: String,
    /// Fingerprint of the key that its agent has announced.
    pub next: Option<String>,
}

/// Who opens the connections between an operator and a site's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// The operator, to `host:port` of the agent.
    Address(String),
    /// The agent, to this address and port of the operator's host.
    Listen(String),
}

/// A site as it is written.
#[derive(Serialize, Deserialize)]
struct Recorded {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listen: Option<String>,
    fingerprint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl TryFrom<Recorded> for Site {
    type Error = &'static str;

    fn try_from(recorded: Recorded) -> Result<Self, Self::Error> {
        let way = match (recorded.address, recorded.listen) {
            (Some(address), None) => Way::Address(address),
            (None, Some(listen)) => Way::Listen(listen),
            (Some(_), Some(_)) | (None, None) => return Err("a site has `address` or `listen`"),
        };
        Ok(Self {
            way,
            fingerprint: recorded.fingerprint,
            next: recorded.next,
        })
    }
}

impl From<Site> for Recorded {
    fn from(site: Site) -> Self {
        let (address, listen) = match site.way {
            Way::Address(address) => (Some(address), None),
            Way::Listen(listen) => (None, Some(listen)),
        };
        Self {
            address,
            listen,
            fingerprint: site.fingerprint,
            next: site.next,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => formatter.write_str(address),
            Self::Listen(listen) => write!(formatter, "dials us; we listen at {listen}"),
        }
    }
}

/// Why a site could not be looked up or recorded.
#[derive(Debug, Error)]
pub enum SiteRecordError {
    /// The file could not be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// No such site.
    #[error("no site is called {given}{}; `fed site list` shows those that are enrolled, `fed site add` adds one", .nearest.as_ref().map(|name| format!(" (did you mean {name}?)")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        given: SiteName,
        /// What may have been meant.
        nearest: Option<String>,
    },
}

/// The state folder of an operator.
#[derive(Clone, Debug)]
pub struct OperatorState(PathBuf);

impl OperatorState {
    /// Opens the state folder, and makes it if there is none: with the folder of federations, which
    /// stays when the last one has gone.
    ///
    /// # Errors
    /// If others can read it, or it cannot be made.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        state::private_folder(path)?;
        state::private_folder(&path.join("federations"))?;
        Ok(Self(path.to_owned()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The operator's identity, made when first asked for.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn identity(&self) -> Result<Identity, StoreError> {
        Identity::load_or_create(&self.identity_file(), IDENTITY)
    }

    /// The identity that will replace the operator's, made when first asked for.
    pub(super) fn next_identity(&self) -> Result<Identity, StoreError> {
        Identity::load_or_create(&self.next_identity_file(), IDENTITY)
    }

    /// Puts the next identity in the place of the operator's.
    pub(super) fn change_identity(&self) -> Result<(), RotateError> {
        self.next_identity()?.save(&self.identity_file())?;
        Ok(state::remove(&self.next_identity_file())?)
    }

    fn identity_file(&self) -> PathBuf {
        self.0.join("identity").join("operator.pem")
    }

    fn next_identity_file(&self) -> PathBuf {
        self.0.join("identity").join("next.pem")
    }

    fn sites_file(&self) -> PathBuf {
        self.0.join("sites.json")
    }

    /// The sites by name.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn sites(&self) -> Result<BTreeMap<SiteName, Site>, StateError> {
        Ok(state::read_json(&self.sites_file())?.unwrap_or_default())
    }

    /// Finds one site.
    ///
    /// # Errors
    /// [`SiteRecordError::Unknown`] with the nearest name.
    pub fn site(&self, name: &SiteName) -> Result<Site, SiteRecordError> {
        let sites = self.sites()?;
        sites
            .get(name)
            .cloned()
            .ok_or_else(|| SiteRecordError::Unknown {
                given: name.clone(),
                nearest: nearest(name.as_str(), sites.keys().map(SiteName::as_str))
                    .map(str::to_owned),
            })
    }

    /// Records a site, instead of an earlier one of its name.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add_site(&self, name: SiteName, site: Site) -> Result<(), StateError> {
        self.change_sites(|sites| {
            sites.insert(name, site);
        })
    }

    /// Changes what is recorded of a site, if it is still there.
    pub(super) fn change_site(
        &self,
        name: &SiteName,
        change: impl FnOnce(&mut Site),
    ) -> Result<(), StateError> {
        self.change_sites(|sites| {
            if let Some(site) = sites.get_mut(name) {
                change(site);
            }
        })
    }

    /// Forgets a site.
    ///
    /// # Errors
    /// [`SiteRecordError::Unknown`].
    pub fn remove_site(&self, name: &SiteName) -> Result<(), SiteRecordError> {
        self.site(name)?;
        Ok(self.change_sites(|sites| {
            sites.remove(name);
        })?)
    }

    /// Several processes may change the file at once.
    fn change_sites(
        &self,
        change: impl FnOnce(&mut BTreeMap<SiteName, Site>),
    ) -> Result<(), StateError> {
        let _lock = Lock::take(&self.0.join("sites.lock"))?;
        let mut sites = self.sites()?;
        change(&mut sites);
        state::write_json(&self.sites_file(), &sites)
    }

    /// The folder of a federation, whether it exists or not.
    pub fn federation(&self, name: &FederationName) -> FederationFolder {
        FederationFolder(self.0.join("federations").join(name.as_str()))
    }

    /// The log of a detached `fed up`.
    pub fn log_of(&self, name: &FederationName) -> PathBuf {
        self.federation(name).log()
    }

    /// Names of the federations that have a folder, sorted.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn federations(&self) -> Result<Vec<FederationName>, StateError> {
        self.names_with("")
    }

    /// Names of the federations that have a log, sorted.
    pub(super) fn logged(&self) -> Result<Vec<FederationName>, StateError> {
        self.names_with(".log")
    }

    fn names_with(&self, suffix: &str) -> Result<Vec<FederationName>, StateError> {
        let entries = state::entries(&self.0.join("federations"))?;
        let names = entries
            .iter()
            .filter_map(|entry| entry.strip_suffix(suffix)?.parse().ok());
        Ok(names.collect())
    }
}

/// What is kept of a federation, to end it even if its `fed up` has died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its id.
    pub id: FederationId,
    /// Its sites.
    pub sites: Vec<SiteName>,
    /// The process of its `fed up`.
    pub pid: u32,
    /// How long its sites keep it when nobody renews their lease, in seconds.
    #[serde(default)]
    pub lease_seconds: u64,
}

/// The folder of one federation on the operator's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationFolder(PathBuf);

impl FederationFolder {
    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The control socket of `fed up`.
    pub fn socket(&self) -> PathBuf {
        self.0.join("operator.sock")
    }

    /// Held by `fed up` as long as it lives, and by whoever ends what a dead one left: beside the
    /// folder, which comes and goes.
    pub(super) fn lock(&self) -> PathBuf {
        self.0.with_extension("lock")
    }

    /// The log of a detached `fed up`, removed when all went well: beside the folder, so that it outlives a failure.
    fn log(&self) -> PathBuf {
        self.0.with_extension("log")
    }

    /// What clients read.
    pub fn connect(&self) -> PathBuf {
        self.0.join("connect.json")
    }

    fn record_file(&self) -> PathBuf {
        self.0.join("record.json")
    }

    /// The record; nothing if there is no such federation.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn record(&self) -> Result<Option<Record>, StateError> {
        state::read_json(&self.record_file())
    }

    /// Makes the folder and writes the record. Whoever calls this holds the lock, and has removed
    /// what was there.
    pub(super) fn make(&self, record: &Record) -> Result<(), StateError> {
        state::private_folder(&self.0)?;
        state::write_json(&self.record_file(), record)
    }

    /// The folder of the operator's node.
    pub(super) fn node(&self) -> NodeFolder {
        NodeFolder::new(self.0.join("node"))
    }

    /// Removes the folder.
    pub(super) fn remove(&self) -> Result<(), StateError> {
        state::remove(&self.0)
    }

    /// Removes the log.
    pub(super) fn remove_log(&self) -> Result<(), StateError> {
        state::remove(&self.log())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let state = OperatorState::open(&folder.path().join("fed")).unwrap();
        let site = Site {
            way: Way::Address("agent:4788".into()),
            fingerprint: "SHA256:x".into(),
            next: None,
        };
        let name: SiteName = "ecmwf".parse().unwrap();
        state.add_site(name.clone(), site.clone()).unwrap();
        assert_eq!(state.site(&name).unwrap(), site);
        let error = state
            .site(&"ecmfw".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.contains("did you mean ecmwf?"), "{error}");
        state.remove_site(&name).unwrap();
        assert!(state.remove_site(&name).is_err());
    }

    /// Whatever is wrong with it: the file, the line and what to do, in our own words.
    #[test]
    fn a_list_of_sites_that_was_damaged_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let state = OperatorState::open(&folder.path().join("fed")).unwrap();
        let file = state.sites_file();
        let site = "\"address\": \"agent:4788\",\n\"fingerprint\": \"SHA256:x\"";
        let ecmwf = |site: String| format!("{{\n\"ecmwf\": {{\n{site}\n}}}}");
        for (text, line, problem) in [
            (String::new(), 1, "it ends too early"),
            (
                ecmwf(site.to_owned()).replace("}}", ""),
                5,
                "it ends too early",
            ),
            (ecmwf(site.replace(',', "")), 4, "this is not JSON"),
            ("sites:\n".to_owned(), 1, "this is not JSON"),
            ("[]".to_owned(), 1, "this is not what fed writes there"),
            (ecmwf("\"address\": 7".to_owned()), 3, "this is not what"),
            (
                ecmwf(site.replace("\"SHA256:x\"", "null")),
                4,
                "this is not what",
            ),
            (
                ecmwf(format!("{site},\n\"next\": 1")),
                5,
                "this is not what",
            ),
            (
                ecmwf(site.replace("address", "adress")),
                5,
                "this is not what",
            ),
            (
                ecmwf(site.to_owned()).replace("ecmwf", "E C"),
                2,
                "this is not what",
            ),
        ] {
            std::fs::write(&file, &text).unwrap();
            let error = state.sites().unwrap_err();
            let told = format!("{}:{line}: {problem}", file.display());
            assert!(error.to_string().starts_with(&told), "{text}: {error}");
            assert!(error.to_string().contains("mend the file, or move it away"));
            // Nor does a parser speak when causes are listed.
            assert!(std::error::Error::source(&error).is_none());
        }
    }

    #[test]
    fn what_is_recorded_says_who_opens_connections() {
        for (way, key) in [
            (Way::Address("agent:4788".into()), "address"),
            (Way::Listen("[::]:4789".into()), "listen"),
        ] {
            let site = Site {
                way,
                fingerprint: "SHA256:x".into(),
                next: None,
            };
            let text = serde_json::to_string(&site).unwrap();
            assert!(text.starts_with(&format!("{{\"{key}\":")), "{text}");
            assert_eq!(serde_json::from_str::<Site>(&text).unwrap(), site);
        }
    }

    #[test]
    fn changes_at_once_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let state = OperatorState::open(&folder.path().join("fed")).unwrap();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let state = &state;
                scope.spawn(move || {
                    let site = Site {
                        way: Way::Address("agent:4788".into()),
                        fingerprint: "SHA256:x".into(),
                        next: None,
                    };
                    state
                        .add_site(format!("site-{number}").parse().unwrap(), site)
                        .unwrap();
                });
            }
        });
        assert_eq!(state.sites().unwrap().len(), 8);
    }

    #[test]
    fn a_record_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let state = OperatorState::open(&folder.path().join("fed")).unwrap();
        let federation = state.federation(&"fed".parse().unwrap());
        assert_eq!(federation.record().unwrap(), None);
        let record = Record {
            id: FederationId::from_random([0; 5]),
            sites: Vec::new(),
            pid: 1,
            lease_seconds: 300,
        };
        federation.make(&record).unwrap();
        assert_eq!(federation.record().unwrap(), Some(record));
        assert_eq!(state.federations().unwrap().len(), 1);
    }
}
