//! The federations of one agent, by id.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use fed_core::FederationId;
use fed_rpc::status::{Reason, Refusal};
use tracing::warn;

use super::federation::{self, Federation, Host, Record};
use crate::state::{self, StateError};

/// The federations that run, or are being started, at this site.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    host: Arc<Host>,
    folder: PathBuf,
    running: Arc<Mutex<BTreeMap<FederationId, Federation>>>,
}

impl Registry {
    /// Opens the registry and adopts the nodes that outlived an earlier agent.
    pub(super) fn open(host: Arc<Host>, state: &std::path::Path) -> Result<Self, StateError> {
        let folder = state.join("federations");
        state::private_folder(&folder)?;
        let registry = Self {
            host,
            folder,
            running: Arc::default(),
        };
        for name in state::entries(&registry.folder)? {
            let path = registry.folder.join(&name);
            match state::read_json::<Record>(&path.join("federation.json")) {
                Ok(Some(record)) => {
                    registry.spawn(record, true);
                }
                Ok(None) => state::remove(&path)?,
                Err(error) => {
                    warn!(%error, "a federation's record is damaged, so its files are removed");
                    state::remove(&path)?;
                }
            }
        }
        Ok(registry)
    }

    /// What the site offers and where its programs are.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Finds a federation of this operator.
    pub(super) fn find(&self, id: FederationId, operator: &str) -> Result<Federation, Refusal> {
        match self.lock().get(&id) {
            Some(federation) if federation.operator == operator => Ok(federation.clone()),
            // Whether another operator has such a federation is nobody else's business.
            _ => Err(Refusal::new(
                Reason::UnknownFederation,
                format!(
                    "{} runs no federation {id} of this operator",
                    self.host.site
                ),
            )),
        }
    }

    /// Finds or starts a federation.
    pub(super) fn prepare(&self, record: Record) -> Result<Federation, Refusal> {
        match self.lock().get(&record.id) {
            Some(federation) if federation.operator == record.operator => {
                return Ok(federation.clone());
            }
            Some(_) => {
                let message = format!("federation {} is another operator's", record.id);
                return Err(Refusal::new(Reason::ForeignFederation, message));
            }
            None => {}
        }
        Ok(self.spawn(record, false))
    }

    /// All federations.
    pub(super) fn all(&self) -> Vec<Federation> {
        self.lock().values().cloned().collect()
    }

    fn spawn(&self, record: Record, adopt: bool) -> Federation {
        let id = record.id;
        let folder = self.folder.join(id.to_string());
        let running = Arc::clone(&self.running);
        let ended = move || {
            running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&id);
        };
        let mut running = self.lock();
        let new = || federation::spawn(Arc::clone(&self.host), folder, record, adopt, ended);
        running.entry(id).or_insert_with(new).clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<FederationId, Federation>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
