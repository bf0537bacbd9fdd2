//! The life of one federation on the operator's host.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use fed_core::{
    Failure, FederationId, FederationName, Leases, PlanError, Request, SiteName, WorkerCount,
};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::client::{self, DownError};
use super::driver::Driver;
use super::inbound::Inbound;
use super::owner::Operator;
use super::report::{Progress, Untold, told_of};
use super::state::{OperatorState, Record, SiteRecordError};
use crate::python::{Inspection, Interpreter, PythonError, exposed, readable};
use crate::state::{Lock, StateError};

/// Outcomes that may wait for the owner.
const QUEUE: usize = 64;

/// What `fed up` was asked for.
#[derive(Clone, Debug)]
pub struct UpRequest {
    /// Name of the new federation.
    pub name: FederationName,
    /// Its sites.
    pub sites: Vec<SiteName>,
    /// Numbers of workers that differ from the sites' defaults.
    pub workers: Vec<WorkerCount>,
    /// Leases.
    pub leases: Leases,
    /// Interpreter of the scheduler.
    pub interpreter: Interpreter,
    /// The `fed` program, to start the node with.
    pub program: PathBuf,
}

/// Why a federation did not come up, or ended early.
#[derive(Debug, Error)]
pub enum UpError {
    /// The request cannot be met by any sites.
    #[error(transparent)]
    Request(#[from] PlanError),
    /// A site is not enrolled.
    #[error(transparent)]
    Site(#[from] SiteRecordError),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The operator's identity cannot be used.
    #[error(transparent)]
    Identity(#[from] fed_rpc::identity::StoreError),
    /// The scheduler's interpreter cannot be used.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// The scheduler's interpreter has no Dask.
    #[error(
        "{python} has no distributed, which the scheduler needs: activate the environment that has it, or name its interpreter with --python"
    )]
    NoDistributed {
        /// The interpreter.
        python: String,
    },
    /// The scheduler's interpreter has no package `fed`.
    #[error(
        "{python} has no package fed {version}, which the scheduler needs: install it there (pip install), or name another interpreter with --python"
    )]
    NoPackage {
        /// The interpreter.
        python: String,
        /// Version of this program.
        version: &'static str,
    },
    /// A sandbox cannot be made here.
    #[error(transparent)]
    Unsupported(#[from] fed_sandbox::Unsupported),
    /// A federation of this name exists, or comes up.
    #[error(
        "federation {name} is up already{}; `fed down {name}` ends it, `--name` gives the new one another name",
        .process.map(|pid| format!(" (process {pid} on this host runs it)")).unwrap_or_default()
    )]
    Taken {
        /// The name.
        name: FederationName,
        /// The process of its `fed up`.
        process: Option<u32>,
    },
    /// What a dead `fed up` of this name left could not be ended.
    #[error("cannot end what an earlier federation {name} left: {source}")]
    Stale {
        /// The name.
        name: FederationName,
        /// Why not.
        source: DownError,
    },
    /// Tasks in the scheduler's sandbox could read the operator's keys.
    #[error(
        "the state folder {state} lies below {visible}, which the scheduler may read; choose another with --state"
    )]
    Exposed {
        /// The operator's state folder.
        state: PathBuf,
        /// What the scheduler sees.
        visible: PathBuf,
    },
    /// A control socket, signal handler or random number could not be had.
    #[error("cannot run: {0}")]
    System(#[from] std::io::Error),
    /// A signal came before it was up. Everything has been ended.
    #[error("interrupted before the federation was up")]
    Interrupted {
        /// The signal's number.
        signal: i32,
    },
    /// A second signal came before everything had been ended.
    #[error(
        "interrupted again, so what was begun is not waited for: `fed down {name}` ends it, or the sites do by themselves in at most {lease_seconds} s"
    )]
    Abandoned {
        /// The name.
        name: FederationName,
        /// The signal's number.
        signal: i32,
        /// The lease of the sites.
        lease_seconds: u64,
    },
    /// It has ended, but some sites could not be told.
    #[error("federation {name} has ended here, but {}", told_of(.untold))]
    Untold {
        /// The name.
        name: FederationName,
        /// Those sites.
        untold: Vec<Untold>,
    },
    /// Something failed on the way up, or while it ran. Everything has been ended.
    #[error(transparent)]
    Failed(Failure),
}

impl UpError {
    /// The error of a name whose `fed up` runs.
    pub fn taken(state: &OperatorState, name: &FederationName) -> Self {
        Self::Taken {
            name: name.clone(),
            process: Lock::holder(&state.federation(name).lock()),
        }
    }
}

/// Brings a federation up, keeps it, and ends it when told to: by Ctrl-C, SIGTERM, SIGHUP or
/// `fed down`, or when the receiver of `progress` is dropped. Returns when nothing is left, or at
/// once when a second signal comes.
///
/// # Errors
/// See [`UpError`]; unless it says otherwise, everything that was started has been ended.
pub async fn up(
    state: &OperatorState,
    request: UpRequest,
    progress: mpsc::UnboundedSender<Progress>,
) -> Result<(), UpError> {
    // First, so that nothing of this host hides a slip of the pen.
    Request::check_sites(&request.sites)?;
    fed_sandbox::check()?;
    let mut inventory = BTreeMap::new();
    for site in &request.sites {
        inventory.insert(site.clone(), state.site(site)?);
    }
    let identity = Arc::new(state.identity()?);
    let inspection = request.interpreter.inspect().await?;
    check_interpreter(&inspection)?;
    let readable = readable(&inspection, Vec::new());
    let folder = state.federation(&request.name);
    if let Some(visible) = exposed(state.path(), &readable) {
        return Err(UpError::Exposed {
            state: state.path().to_owned(),
            visible: visible.clone(),
        });
    }
    let id = FederationId::from_random(rand::random());
    let plan_request = Request {
        id,
        name: request.name.clone(),
        sites: request.sites.clone(),
        workers: request.workers,
        leases: request.leases,
        fed_version: env!("CARGO_PKG_VERSION").to_owned(),
        python: inspection.environment.clone(),
    };
    let inbound = Inbound::of(state);
    let lock = Lock::try_take(&folder.lock())?;
    let Some(lock) = lock else {
        return Err(UpError::taken(state, &request.name));
    };
    let stale = client::clean_up_stale(state, &inbound, &request.name).await;
    stale.map_err(|source| UpError::Stale {
        name: request.name.clone(),
        source,
    })?;
    folder.make(&Record {
        id,
        sites: request.sites,
        pid: std::process::id(),
        lease_seconds: request.leases.federation().as_secs(),
    })?;
    let (outcomes, results) = mpsc::channel(QUEUE);
    let driver = Driver {
        state: state.clone(),
        inbound,
        identity,
        inventory: Arc::new(inventory),
        interpreter: request.interpreter.resolved(&inspection),
        readable: Arc::new(readable),
        program: request.program,
        folder,
        sites: BTreeMap::new(),
        plan: None,
        gateway: None,
        node_died: CancellationToken::new(),
        outcomes,
    };
    let ended = Operator::new(plan_request, driver, progress)
        .live(results)
        .await;
    if matches!(ended, Err(UpError::Abandoned { .. })) {
        // Its record tells `fed down` whom to tell.
        return ended;
    }
    let folder = state.federation(&request.name);
    folder.remove()?;
    if ended.is_ok() {
        folder.remove_log()?;
    }
    // From here on the name is free.
    drop(lock);
    ended
}

/// Refuses an interpreter that cannot run the scheduler, before any site is asked.
fn check_interpreter(inspection: &Inspection) -> Result<(), UpError> {
    let python = || inspection.environment.executable.clone();
    if !inspection.environment.packages.contains_key("distributed") {
        return Err(UpError::NoDistributed { python: python() });
    }
    if !inspection.is_compiled {
        return Err(UpError::NoPackage {
            python: python(),
            version: env!("CARGO_PKG_VERSION"),
        });
    }
    Ok(())
}
