//! The federations of one agent, by id.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fed_core::{FederationId, SiteName};
use fed_rpc::status::{ENDED_HERE, Reason, Refusal};
use tracing::{error, warn};

use super::account::{Account, Accounts};
use super::federation::{self, Call, Federation, Host, NODE, Record};
use super::policy::Allowance;
use crate::deadline::seconds_since_boot;
use crate::node::{NodeFolder, process};
use crate::state::{self, StateError};

/// Federations that have ended of which the reason is kept.
const ENDS: usize = 64;

/// The federations that run, or are being started, at this site.
#[derive(Clone, Debug)]
pub(super) struct Registry {
    site: SiteName,
    folder: PathBuf,
    books: Arc<Mutex<Books>>,
    /// Who uses how much of the site.
    pub(super) accounts: Accounts,
}

#[derive(Debug, Default)]
struct Books {
    running: BTreeMap<FederationId, Entry>,
    /// The last that have ended, the youngest last.
    ended: VecDeque<End>,
}

/// Why a federation has ended, for an operator who was not there to hear it.
#[derive(Debug)]
struct End {
    id: FederationId,
    operator: String,
    reason: String,
}

#[derive(Debug)]
struct Entry {
    federation: Federation,
    /// When this agent took it up, and how long it had run by then.
    taken_up: (Instant, Duration),
    lease: Duration,
}

impl Registry {
    /// Opens the registry of a site.
    pub(super) fn open(site: SiteName, state: &Path) -> Result<Self, StateError> {
        let folder = state.join("federations");
        state::private_folder(&folder)?;
        Ok(Self {
            site,
            folder,
            books: Arc::default(),
            accounts: Accounts::default(),
        })
    }

    /// Adopts the nodes that outlived an earlier agent; `host` gives an operator's.
    ///
    /// One whose record is lost or damaged is ended: nobody would count what it uses.
    pub(super) async fn adopt(&self, host: impl Fn(&str) -> Arc<Host>) -> Result<(), StateError> {
        for name in state::entries(&self.folder)? {
            let path = self.folder.join(&name);
            match state::read_json::<Record>(&path.join("federation.json")) {
                Ok(Some(mut record)) => {
                    let host = host(&record.operator);
                    if record.pools.is_empty() {
                        record.pools.clone_from(&host.pools);
                    }
                    let pools = record.pools.clone();
                    let host = Host {
                        pools,
                        ..(*host).clone()
                    };
                    let (pools, load) = (record.pools.clone(), record.crew.load());
                    let operator = &record.operator;
                    let account = self.accounts.open(record.id, operator, pools, load);
                    self.spawn(&mut self.lock(), record, Arc::new(host), account, true);
                }
                Ok(None) => end_unknown(&path).await?,
                Err(error) => {
                    warn!(%error, "a federation's record is damaged, so what is left of it ends");
                    end_unknown(&path).await?;
                }
            }
        }
        Ok(())
    }

    /// Finds a federation of this operator.
    pub(super) fn find(&self, id: FederationId, operator: &str) -> Result<Federation, Refusal> {
        let books = self.lock();
        if let Some(entry) = books.running.get(&id)
            && entry.federation.operator == operator
        {
            return Ok(entry.federation.clone());
        }
        // Whether another operator has such a federation is nobody else's business.
        let mut ended = books.ended.iter();
        let message = match ended.find(|end| end.id == id && end.operator == operator) {
            Some(end) => format!("{ENDED_HERE}{}", end.reason),
            None => format!("{} runs no federation {id} of this operator", self.site),
        };
        Err(Refusal::new(Reason::UnknownFederation, message))
    }

    /// Finds or starts a federation.
    ///
    /// # Errors
    /// If it is another operator's, or this one may have no more.
    pub(super) fn prepare(
        &self,
        mut record: Record,
        host: Arc<Host>,
        allowance: &Allowance<'_>,
    ) -> Result<Federation, Refusal> {
        let mut books = self.lock();
        match books.running.get(&record.id) {
            Some(entry) if entry.federation.operator == record.operator => {
                Ok(entry.federation.clone())
            }
            Some(_) => {
                let message = format!("federation {} is another operator's", record.id);
                Err(Refusal::new(Reason::ForeignFederation, message))
            }
            None => {
                record.pools.clone_from(&host.pools);
                let (operator, pools) = (&record.operator, record.pools.clone());
                let account = self.accounts.admit(record.id, operator, pools, allowance)?;
                Ok(self.spawn(&mut books, record, host, account, false))
            }
        }
    }

    /// How long a federation has run, and its lease.
    pub(super) fn life(&self, id: FederationId) -> (Duration, Duration) {
        let books = self.lock();
        let life = |entry: &Entry| {
            let (since, before) = entry.taken_up;
            (before + since.elapsed(), entry.lease)
        };
        books.running.get(&id).map(life).unwrap_or_default()
    }

    /// Ends what an operator runs, for this reason; returns how many federations there were.
    pub(super) async fn end_all_of(&self, operator: &str, reason: &str) -> usize {
        let federations: Vec<Federation> = {
            let books = self.lock();
            let all = books.running.values().map(|entry| &entry.federation);
            all.filter(|federation| federation.operator == operator)
                .cloned()
                .collect()
        };
        let ends = federations
            .iter()
            .map(|federation| federation.call(|answer| Call::End(reason.to_owned(), answer)));
        // One that has just ended by itself says so by an error.
        futures::future::join_all(ends).await.len()
    }

    /// The operators who have federations here.
    pub(super) fn operators(&self) -> Vec<String> {
        let books = self.lock();
        let all = books.running.values();
        let mut operators: Vec<_> = all.map(|entry| entry.federation.operator.clone()).collect();
        operators.sort();
        operators.dedup();
        operators
    }

    /// How many federations there are.
    pub(super) fn len(&self) -> usize {
        self.lock().running.len()
    }

    fn spawn(
        &self,
        books: &mut Books,
        record: Record,
        host: Arc<Host>,
        account: Account,
        adopt: bool,
    ) -> Federation {
        let id = record.id;
        let folder = self.folder.join(id.to_string());
        let shared = Arc::clone(&self.books);
        let operator = record.operator.clone();
        let ended = move |reason| {
            let mut books = shared.lock().unwrap_or_else(PoisonError::into_inner);
            books.running.remove(&id);
            if books.ended.len() == ENDS {
                books.ended.pop_front();
            }
            books.ended.push_back(End {
                id,
                operator,
                reason,
            });
        };
        let lease = record.lease;
        let before = match (adopt, record.began) {
            (true, began) if began > 0 => seconds_since_boot().saturating_sub(began),
            _ => 0,
        };
        let before = Duration::from_secs(before);
        let federation = federation::spawn(host, folder, record, account, adopt, ended);
        let entry = Entry {
            federation: federation.clone(),
            taken_up: (Instant::now(), before),
            lease,
        };
        books.running.insert(id, entry);
        federation
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the node of a federation of which nothing else is known, and removes its folder.
async fn end_unknown(path: &Path) -> Result<(), StateError> {
    let node = NodeFolder::new(path.join(NODE));
    if let Err(processes) = process::end(&node, Duration::ZERO).await {
        error!(folder = %path.display(), ?processes, "processes of a node cannot be killed");
    }
    state::remove(path)
}
