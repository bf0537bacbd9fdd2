//! One federation at a site: a task that owns its node, its workers and its lease, and the handle
//! by which the agent's other tasks call it.

mod crew;
mod pools;
mod task;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fed_core::{
    Destination, FederationId, FederationName, Member, MemberId, Peer, PoolName, PoolOffer,
    SiteName,
};
use fed_rpc::status::{Reason, Refusal};
use fed_sandbox::Quotas;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument as _;

pub(super) use self::crew::Crew;
#[cfg(test)]
pub(super) use self::crew::Exit;
use self::task::Task;
use super::account::{Account, Reservation};
use super::replacement::Replacements;
use crate::node::{NodeClient, NodeFolder, Ready, Report};
use crate::python::Interpreter;

/// Calls that may wait for the task.
const QUEUE: usize = 32;
/// Events that a slow watcher may lag behind.
const EVENTS: usize = 256;

/// Name of the node's folder in that of its federation.
pub(super) const NODE: &str = "node";

/// What the agent keeps of a federation on disk, to adopt its node after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: FederationId,
    pub(super) name: FederationName,
    /// Id of the operator whose federation it is: the fingerprint of their first key.
    pub(super) operator: String,
    pub(super) member: MemberId,
    pub(super) members: Vec<Member>,
    pub(super) lease: Duration,
    /// When it began, in seconds since this host was booted: no node outlives that, and the wall
    /// clock may jump.
    #[serde(default)]
    pub(super) began: u64,
    pub(super) scheduler: Option<String>,
    pub(super) all_pools: Vec<String>,
    /// The pools as the site offered them when it began.
    #[serde(default)]
    pub(super) pools: Vec<PoolOffer>,
    /// Its workers.
    #[serde(flatten)]
    pub(super) crew: Crew,
}

/// What every federation of one agent shares.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) site: SiteName,
    /// The `fed` program, to start nodes with.
    pub(super) program: PathBuf,
    pub(super) interpreter: Interpreter,
    pub(super) pools: Vec<PoolOffer>,
    /// What workers may read: system, interpreter and data.
    pub(super) read_only: Vec<PathBuf>,
    /// What workers may connect to outside the mesh.
    pub(super) reach: Vec<Destination>,
    /// Processes and threads that a worker may have.
    pub(super) processes: u32,
    /// What the workers of one federation may use together.
    pub(super) quotas: Quotas,
}

/// What happens in a federation, for its watchers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    WorkerExited {
        worker: String,
        status: String,
        last_lines: Vec<String>,
    },
    Ended {
        reason: String,
    },
}

pub(super) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// A call to the task of a federation. One that wants workers brings what was reserved for it, which
/// the task gives back once it has reported what came of it.
pub(super) enum Call {
    Prepare(Answer<Ready>),
    Connect(Vec<Peer>, Answer<()>),
    Report(Answer<Report>),
    Start {
        scheduler: String,
        pools: Vec<(PoolName, u32)>,
        all_pools: Vec<String>,
        reservation: Reservation,
        answer: Answer<Vec<String>>,
    },
    Scale {
        pool: PoolName,
        workers: u32,
        reservation: Reservation,
        answer: Answer<Vec<String>>,
    },
    Stop(Vec<String>, Answer<Vec<String>>),
    Logs(usize, Answer<Vec<(String, String)>>),
    Renew(Answer<Duration>),
    /// Ends it, for this reason.
    End(String, Answer<()>),
}

impl Call {
    /// Answers for a federation that has ended: its end is what some callers wanted.
    fn refuse(self, refusal: Refusal) {
        // Callers that have gone away need no answer.
        match self {
            Self::Prepare(answer) => drop(answer.send(Err(refusal))),
            Self::Connect(_, answer) => drop(answer.send(Err(refusal))),
            Self::Report(answer) => drop(answer.send(Err(refusal))),
            Self::Start { answer, .. } => drop(answer.send(Err(refusal))),
            Self::Scale { answer, .. } => drop(answer.send(Err(refusal))),
            Self::Stop(_, answer) => drop(answer.send(Err(refusal))),
            Self::Logs(_, answer) => drop(answer.send(Err(refusal))),
            Self::Renew(answer) => drop(answer.send(Err(refusal))),
            Self::End(_, answer) => drop(answer.send(Ok(()))),
        }
    }
}

/// The other tasks' end of a federation.
#[derive(Clone, Debug)]
pub(super) struct Federation {
    pub(super) operator: String,
    calls: mpsc::Sender<Call>,
    events: broadcast::Sender<Happening>,
}

impl Federation {
    /// Calls the task and waits for its answer.
    pub(super) async fn call<T>(&self, make: impl FnOnce(Answer<T>) -> Call) -> Result<T, Refusal> {
        let (answer, reply) = oneshot::channel();
        let ended = || {
            Refusal::new(
                Reason::UnknownFederation,
                "the federation has just ended here",
            )
        };
        self.calls.send(make(answer)).await.map_err(|_| ended())?;
        reply.await.map_err(|_| ended())?
    }

    /// Subscribes to what happens from now on.
    pub(super) fn watch(&self) -> broadcast::Receiver<Happening> {
        self.events.subscribe()
    }
}

/// Starts the task of a new federation, or of one whose node is adopted. `ended` is called with the
/// reason when nothing of it is left.
pub(super) fn spawn(
    host: Arc<Host>,
    folder: PathBuf,
    record: Record,
    account: Account,
    adopt: bool,
    ended: impl FnOnce(String) + Send + 'static,
) -> Federation {
    let (calls, queue) = mpsc::channel(QUEUE);
    let (events, _) = broadcast::channel(EVENTS);
    let federation = Federation {
        operator: record.operator.clone(),
        calls,
        events: events.clone(),
    };
    let span = tracing::info_span!("federation", id = %record.id, name = %record.name);
    let node = NodeFolder::new(folder.join(NODE));
    let task = Task {
        host,
        client: NodeClient::new(&node),
        node,
        folder,
        deadline: Instant::now() + record.lease,
        record,
        account,
        events,
        running: None,
        replacements: Replacements::default(),
    };
    let life = async move {
        ended(task.live(queue, adopt).await);
    };
    tokio::spawn(life.instrument(span));
    federation
}
fn refuse(reason: Reason, error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal::from_error(reason, error)
}

#[cfg(test)]
mod tests;
