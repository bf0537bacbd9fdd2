//! One federation at a site: a task that owns its node, its workers and its lease.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fed_core::{
    FederationId, FederationName, Leases, Member, MemberId, Peer, PoolName, PoolOffer, SiteName,
};
use fed_rpc::status::{Reason, Refusal};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tracing::{Instrument as _, error, info, warn};

use super::workers::{self, WorkerKit};
use crate::node::{
    self, NodeClient, NodeEvent, NodeEvents, NodeFolder, NodeSpec, Ready, Report, Supervision, log,
};
use crate::python::{self, Interpreter};
use crate::state::{self, StateError};

/// Calls that may wait for the task.
const QUEUE: usize = 32;
/// Events that a slow watcher may lag behind.
const EVENTS: usize = 256;
/// Lines of a worker's log that tell why it died.
const LAST_LINES: usize = 5;

/// What the agent keeps of a federation on disk, to adopt its node after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: FederationId,
    pub(super) name: FederationName,
    /// Fingerprint of the operator whose federation it is.
    pub(super) operator: String,
    pub(super) member: MemberId,
    pub(super) members: Vec<Member>,
    pub(super) lease: Duration,
    pub(super) scheduler: Option<String>,
    pub(super) all_pools: Vec<String>,
    /// The node's process.
    pub(super) node_pid: Option<u32>,
    /// Number that the next worker gets.
    pub(super) next_worker: u32,
    /// Names of the workers that should run, by pool.
    pub(super) workers: BTreeMap<PoolName, Vec<String>>,
}

/// What every federation of one agent shares.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) site: SiteName,
    /// The `fed` program, to start nodes with.
    pub(super) program: PathBuf,
    pub(super) interpreter: Interpreter,
    pub(super) pools: Vec<PoolOffer>,
    /// What workers may read: system, interpreter and data.
    pub(super) read_only: Vec<PathBuf>,
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

/// A call to the task of a federation.
pub(super) enum Call {
    Prepare(Answer<Ready>),
    Connect(Vec<Peer>, Answer<()>),
    Report(Answer<Report>),
    Start {
        scheduler: String,
        pools: Vec<(PoolName, u32)>,
        all_pools: Vec<String>,
        answer: Answer<Vec<String>>,
    },
    Scale(PoolName, u32, Answer<Vec<String>>),
    Stop(Vec<String>, Answer<Vec<String>>),
    Logs(usize, Answer<Vec<(String, String)>>),
    Renew(Answer<Duration>),
    Leave(Answer<()>),
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

/// Starts the task of a new federation, or of one whose node is adopted. `ended` is called when
/// nothing of it is left.
pub(super) fn spawn(
    host: Arc<Host>,
    folder: PathBuf,
    record: Record,
    adopt: bool,
    ended: impl FnOnce() + Send + 'static,
) -> Federation {
    let (calls, queue) = mpsc::channel(QUEUE);
    let (events, _) = broadcast::channel(EVENTS);
    let federation = Federation {
        operator: record.operator.clone(),
        calls,
        events: events.clone(),
    };
    let span = tracing::info_span!("federation", id = %record.id, name = %record.name);
    let node = NodeFolder::new(folder.join("node"));
    let task = Task {
        host,
        client: NodeClient::new(&node),
        node,
        folder,
        deadline: Instant::now() + record.lease,
        record,
        events,
        running: None,
    };
    let life = async move {
        task.live(queue, adopt).await;
        ended();
    };
    tokio::spawn(life.instrument(span));
    federation
}

/// A node that runs.
struct Running {
    ready: Ready,
    events: NodeEvents,
    /// Absent after the agent's restart: an adopted node is not its child.
    supervision: Option<Supervision>,
}

struct Task {
    host: Arc<Host>,
    folder: PathBuf,
    node: NodeFolder,
    client: NodeClient,
    record: Record,
    deadline: Instant,
    events: broadcast::Sender<Happening>,
    running: Option<Running>,
}

impl Task {
    async fn live(mut self, mut queue: mpsc::Receiver<Call>, adopt: bool) {
        let reason = match if adopt { self.adopt().await } else { Ok(()) } {
            Ok(()) => self.serve(&mut queue).await,
            Err(refusal) => Some(refusal.message),
        };
        if let Some(reason) = reason {
            self.end(&reason).await;
        }
        // Whoever called in the meantime learns that the federation has ended.
        queue.close();
        while let Ok(call) = queue.try_recv() {
            if let Call::Leave(answer) = call {
                let _ = answer.send(Ok(()));
            }
        }
    }

    /// Returns why the federation must end; nothing if it has been ended.
    async fn serve(&mut self, queue: &mut mpsc::Receiver<Call>) -> Option<String> {
        loop {
            let node_event = async {
                match &mut self.running {
                    Some(running) => running.events.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                call = queue.recv() => match call {
                    Some(Call::Leave(answer)) => {
                        self.end("the operator ended it").await;
                        // An operator that did not wait has what it wanted all the same.
                        let _ = answer.send(Ok(()));
                        return None;
                    }
                    Some(call) => {
                        if let Err(reason) = self.answer(call).await {
                            return Some(reason);
                        }
                    }
                    None => return Some("the agent ends".to_owned()),
                },
                event = node_event => match event {
                    Some(event) => self.tell(event),
                    None => return Some("its node died".to_owned()),
                },
                () = tokio::time::sleep_until(self.deadline) => {
                    return Some(format!(
                        "its operator has not renewed the lease for {} s",
                        self.record.lease.as_secs()
                    ));
                }
            }
        }
    }

    /// Answers one call. An error is the reason why the federation must end.
    async fn answer(&mut self, call: Call) -> Result<(), String> {
        // A caller that has gone away needs no answer: hence the results that are dropped here.
        match call {
            Call::Prepare(answer) => {
                let prepared = self.prepare().await;
                let failed = prepared
                    .as_ref()
                    .err()
                    .map(|refusal| refusal.message.clone());
                let _ = answer.send(prepared);
                return failed.map_or(Ok(()), Err);
            }
            Call::Connect(peers, answer) => {
                let connected = self.client.connect(peers).await;
                let _ =
                    answer.send(connected.map_err(|error| refuse(Reason::InvalidRequest, &error)));
            }
            Call::Report(answer) => {
                let report = self.client.report().await;
                let _ = answer.send(report.map_err(|error| refuse(Reason::SiteNotReady, &error)));
            }
            Call::Start {
                scheduler,
                pools,
                all_pools,
                answer,
            } => {
                self.record.scheduler = Some(scheduler);
                self.record.all_pools = all_pools;
                let mut started = Ok(());
                for (pool, workers) in pools {
                    started = started.and(self.scale(&pool, workers).await);
                }
                let _ = answer.send(started.map(|()| self.names()));
            }
            Call::Scale(pool, workers, answer) => {
                let scaled = self.scale(&pool, workers).await;
                let _ = answer.send(scaled.map(|()| self.names()));
            }
            Call::Stop(workers, answer) => {
                let _ = answer.send(self.stop_workers(workers).await.map(|()| self.names()));
            }
            Call::Logs(tail, answer) => {
                let logs = self.logs(tail);
                tokio::spawn(async move {
                    let _ = answer.send(Ok(logs.await));
                });
            }
            Call::Renew(answer) => {
                let renewed = self.client.renew().await;
                if renewed.is_ok() {
                    self.deadline = Instant::now() + self.record.lease;
                }
                let renewed = renewed.map(|()| self.record.lease);
                let _ = answer.send(renewed.map_err(|error| refuse(Reason::SiteNotReady, &error)));
            }
            Call::Leave(_) => return Err("the operator ended it".to_owned()),
        }
        Ok(())
    }

    /// Starts the node, unless it runs.
    async fn prepare(&mut self) -> Result<Ready, Refusal> {
        if let Some(running) = &self.running {
            return Ok(running.ready.clone());
        }
        let internal = |error: &StateError| refuse(Reason::Internal, error);
        state::private_folder(&self.folder).map_err(|error| internal(&error))?;
        self.save().map_err(|error| internal(&error))?;
        let spec = NodeSpec {
            federation: self.record.id,
            name: self.record.name.clone(),
            member: self.record.member,
            members: self.record.members.clone(),
            lease: Some(self.record.lease),
            read_only: self.host.read_only.clone(),
        };
        let spawned = node::spawn(&self.host.program, &self.node, &spec).await;
        let (ready, mut supervision) =
            spawned.map_err(|error| refuse(Reason::ProcessFailed, &error))?;
        let events = match self.equip(ready.pid).await {
            Ok(events) => events,
            Err(refusal) => {
                supervision.ended(Duration::ZERO).await;
                return Err(refusal);
            }
        };
        info!(udp_port = ready.udp_port, "node started");
        self.running = Some(Running {
            ready: ready.clone(),
            events,
            supervision: Some(supervision),
        });
        Ok(ready)
    }

    /// Gives a new node what its processes need, and watches it.
    async fn equip(&mut self, pid: u32) -> Result<NodeEvents, Refusal> {
        self.record.node_pid = Some(pid);
        self.save()
            .map_err(|error| refuse(Reason::Internal, &error))?;
        python::install_package(&self.node.package())
            .map_err(|error| refuse(Reason::Internal, &error))?;
        let watched = self.client.watch().await;
        watched.map_err(|error| refuse(Reason::ProcessFailed, &error))
    }

    /// Takes over a node that outlived the agent.
    async fn adopt(&mut self) -> Result<(), Refusal> {
        let gone = |error| refuse(Reason::UnknownFederation, &error);
        let report = self.client.report().await.map_err(gone)?;
        let events = self.client.watch().await.map_err(gone)?;
        for workers in self.record.workers.values_mut() {
            workers.retain(|worker| report.processes.contains(worker));
        }
        let ready = report.ready;
        info!("adopted the node of an earlier agent");
        self.running = Some(Running {
            ready,
            events,
            supervision: None,
        });
        Ok(())
    }

    /// Brings a pool to a number of workers: starts new ones, or ends the youngest.
    async fn scale(&mut self, pool: &PoolName, wanted: u32) -> Result<(), Refusal> {
        let offer = self
            .host
            .pools
            .iter()
            .find(|offer| offer.name == *pool)
            .cloned();
        let offer = offer.ok_or_else(|| {
            Refusal::new(
                Reason::UnknownPool,
                format!("{} has no pool {pool}", self.host.site),
            )
        })?;
        if wanted > offer.max_workers {
            let message = format!(
                "pool {pool} allows {} workers, not {wanted}",
                offer.max_workers
            );
            return Err(Refusal::new(Reason::Exhausted, message));
        }
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let have = self.record.workers.get(pool).map_or(0, Vec::len);
        if have > wanted {
            let surplus = self.record.workers[pool][wanted..].to_vec();
            return self.stop_workers(surplus).await;
        }
        let kit = self.kit()?;
        for _ in have..wanted {
            let name = workers::name(pool, self.record.member, self.record.next_worker);
            let started = self.client.run(kit.worker(&name, &offer)).await;
            started.map_err(|error| refuse(Reason::ProcessFailed, &error))?;
            self.record.next_worker += 1;
            self.record
                .workers
                .entry(pool.clone())
                .or_default()
                .push(name);
        }
        self.save()
            .map_err(|error| refuse(Reason::Internal, &error))
    }

    fn kit(&self) -> Result<WorkerKit, Refusal> {
        let scheduler = self.record.scheduler.clone().ok_or_else(|| {
            Refusal::new(
                Reason::OutOfOrder,
                "no scheduler is known yet; call Start first",
            )
        })?;
        Ok(WorkerKit {
            site: self.host.site.clone(),
            address: self.record.id.router(self.record.member),
            interpreter: self.host.interpreter.clone(),
            folder: self.node.clone(),
            scheduler,
            all_pools: self.record.all_pools.clone(),
        })
    }

    /// Ends workers by name, all of them if none is named.
    async fn stop_workers(&mut self, names: Vec<String>) -> Result<(), Refusal> {
        let known = self.names();
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            let message = format!("{} has no worker {unknown}", self.host.site);
            return Err(Refusal::new(Reason::UnknownWorker, message));
        }
        for workers in self.record.workers.values_mut() {
            workers.retain(|worker| !names.is_empty() && !names.contains(worker));
        }
        let terminated = self.client.terminate(names).await;
        terminated.map_err(|error| refuse(Reason::SiteNotReady, &error))?;
        self.save()
            .map_err(|error| refuse(Reason::Internal, &error))
    }

    fn names(&self) -> Vec<String> {
        self.record.workers.values().flatten().cloned().collect()
    }

    /// Passes on what happened in the node.
    fn tell(&mut self, event: NodeEvent) {
        let NodeEvent::Exited {
            name,
            status,
            asked,
        } = event
        else {
            return;
        };
        for workers in self.record.workers.values_mut() {
            workers.retain(|worker| *worker != name);
        }
        if let Err(error) = self.save() {
            warn!(%error, "the record of the federation is not up to date");
        }
        if asked {
            return;
        }
        let last_lines = log::of_process(&self.node, &name, LAST_LINES);
        warn!(worker = name, status, ?last_lines, "worker ended by itself");
        // Nobody need be watching.
        let _ = self.events.send(Happening::WorkerExited {
            worker: name,
            status,
            last_lines,
        });
    }

    /// The last lines of all logs, as (process, line).
    fn logs(&self, tail: usize) -> impl Future<Output = Vec<(String, String)>> + use<> {
        let node = self.node.clone();
        let read = tokio::task::spawn_blocking(move || {
            let own = log::of_node(&node, tail).into_iter();
            let mut lines: Vec<_> = own.map(|line| ("node".to_owned(), line)).collect();
            for name in log::names(&node) {
                let read = log::of_process(&node, &name, tail).into_iter();
                lines.extend(read.map(|line| (name.clone(), line)));
            }
            lines
        });
        async { read.await.expect("reading logs does not panic") }
    }

    fn save(&self) -> Result<(), StateError> {
        state::write_json(&self.folder.join("federation.json"), &self.record)
    }

    /// Ends everything.
    async fn end(&mut self, reason: &str) {
        if let Some(mut running) = self.running.take() {
            info!(reason, "federation ends");
            // A node that does not answer is killed below, or has died.
            let stopped = tokio::time::timeout(2 * Leases::GRACE, self.client.stop()).await;
            if !matches!(stopped, Ok(Ok(()))) {
                warn!("the node did not end when told to");
            }
            if let Some(supervision) = &mut running.supervision {
                supervision.ended(Leases::GRACE).await;
            }
        }
        // One that was adopted, or could not be, is nobody's child.
        if let Some(pid) = self.record.node_pid.take() {
            node::kill(&self.node, pid);
        }
        if let Err(error) = state::remove(&self.folder) {
            error!(%error, "files of an ended federation are left");
        }
        let _ = self.events.send(Happening::Ended {
            reason: reason.to_owned(),
        });
    }
}

fn refuse(reason: Reason, error: &(dyn std::error::Error + 'static)) -> Refusal {
    Refusal::from_error(reason, error)
}
