//! The task of a federation at a site: answers calls, and keeps the node, the lease and the record.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fed_core::Leases;
use fed_rpc::status::{ENDED_HERE, Reason, Refusal};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Answer, Call, Happening, Host, Record, refuse};
use crate::agent::account::Account;
use crate::agent::replacement::Replacements;
use crate::deadline::until;
use crate::node::{
    self, NodeClient, NodeEvents, NodeFolder, NodeSpec, Ready, Supervision, log, process,
};
use crate::python;
use crate::state::{self, StateError};
/// Why a federation ends whose node is gone.
const NODE_DIED: &str = "its node died";
/// How long the death of a node may take to be seen, once it does not answer.
const DEATH: Duration = Duration::from_secs(1);

/// Why a federation ends, and whether it has been ended.
enum Ended {
    Already(String),
    Not(String),
}

/// A node that runs.
pub(super) struct Running {
    ready: Ready,
    events: NodeEvents,
    /// Absent after the agent's restart: an adopted node is not its child.
    supervision: Option<Supervision>,
}

pub(super) struct Task {
    pub(super) host: Arc<Host>,
    pub(super) folder: PathBuf,
    pub(super) node: NodeFolder,
    pub(super) client: NodeClient,
    pub(super) record: Record,
    pub(super) account: Account,
    pub(super) deadline: Instant,
    pub(super) events: broadcast::Sender<Happening>,
    pub(super) running: Option<Running>,
    pub(super) replacements: Replacements,
}

impl Task {
    /// Returns when nothing is left, and why it has ended.
    pub(super) async fn live(mut self, mut queue: mpsc::Receiver<Call>, adopt: bool) -> String {
        let reason = match if adopt { self.adopt().await } else { Ok(()) } {
            Ok(()) => self.serve(&mut queue).await,
            Err(refusal) => Ended::Not(refusal.message),
        };
        let reason = match reason {
            Ended::Already(reason) => reason,
            Ended::Not(reason) => {
                self.end(&reason).await;
                reason
            }
        };
        // Whoever called in the meantime learns that the federation has ended.
        queue.close();
        let refusal = Refusal::new(Reason::UnknownFederation, format!("{ENDED_HERE}{reason}"));
        while let Ok(call) = queue.try_recv() {
            call.refuse(refusal.clone());
        }
        reason
    }

    /// Returns why the federation must end, or has.
    async fn serve(&mut self, queue: &mut mpsc::Receiver<Call>) -> Ended {
        loop {
            self.report_load();
            let node_event = async {
                match &mut self.running {
                    Some(running) => running.events.next().await,
                    None => std::future::pending().await,
                }
            };
            let replacement = self.replacements.next();
            tokio::select! {
                call = queue.recv() => match call {
                    Some(Call::End(reason, answer)) => {
                        self.end(&reason).await;
                        // An operator that did not wait has what it wanted all the same.
                        let _ = answer.send(Ok(()));
                        return Ended::Already(reason);
                    }
                    Some(call) => {
                        if let Err(reason) = self.answer(call).await {
                            return Ended::Not(reason);
                        }
                    }
                    None => return Ended::Not("the agent ends".to_owned()),
                },
                event = node_event => match event {
                    Some(event) => self.tell(event),
                    None => return Ended::Not(NODE_DIED.to_owned()),
                },
                () = until(replacement) => self.replace().await,
                () = tokio::time::sleep_until(self.deadline) => {
                    return Ended::Not(format!(
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
                let connected = connected.map_err(|error| refuse(Reason::InvalidRequest, &error));
                return self.answer_unless_dead(connected, answer).await;
            }
            Call::Report(answer) => {
                let report = self.client.report().await;
                let report = report.map_err(|error| refuse(Reason::SiteNotReady, &error));
                return self.answer_unless_dead(report, answer).await;
            }
            Call::Start {
                scheduler,
                pools,
                all_pools,
                reservation,
                answer,
            } => {
                let started = match reservation.check() {
                    Ok(()) => self.start(scheduler, pools, all_pools).await,
                    refused => refused,
                };
                self.report_load();
                drop(reservation);
                let _ = answer.send(started.map(|()| self.record.crew.names()));
            }
            Call::Scale {
                pool,
                workers,
                reservation,
                answer,
            } => {
                let scaled = match reservation.check() {
                    Ok(()) => self.want(&pool, workers).await,
                    refused => refused,
                };
                self.report_load();
                drop(reservation);
                let _ = answer.send(scaled.map(|()| self.record.crew.names()));
            }
            Call::Stop(workers, answer) => {
                let stopped = self.stop_workers(workers).await;
                self.report_load();
                let _ = answer.send(stopped.map(|()| self.record.crew.names()));
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
                self.see_to_endings().await;
                let renewed = renewed.map(|()| self.record.lease);
                let _ = answer.send(renewed.map_err(|error| refuse(Reason::SiteNotReady, &error)));
            }
            Call::End(reason, _) => return Err(reason),
        }
        Ok(())
    }

    /// Answers with what the node said. If it failed because the node has died, that is the answer,
    /// and the reason why the federation must end.
    async fn answer_unless_dead<T>(
        &mut self,
        said: Result<T, Refusal>,
        answer: Answer<T>,
    ) -> Result<(), String> {
        if said.is_err() && self.node_has_died().await {
            let _ = answer.send(Err(Refusal::new(Reason::ProcessFailed, NODE_DIED)));
            return Err(NODE_DIED.to_owned());
        }
        let _ = answer.send(said);
        Ok(())
    }

    /// Whether the node has died: a socket that breaks may tell before the other.
    async fn node_has_died(&mut self) -> bool {
        let Some(mut running) = self.running.take() else {
            return false;
        };
        let ended = async {
            while let Some(event) = running.events.next().await {
                self.tell(event);
            }
        };
        let died = tokio::time::timeout(DEATH, ended).await.is_ok();
        self.running = Some(running);
        died
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
            reach: self.host.reach.clone(),
            quotas: Some(self.host.quotas),
        };
        let spawned = node::spawn(&self.host.program, &self.node, &spec).await;
        let (ready, mut supervision) =
            spawned.map_err(|error| refuse(Reason::ProcessFailed, &error))?;
        let events = match self.equip().await {
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
    async fn equip(&self) -> Result<NodeEvents, Refusal> {
        python::install_package(&self.node.package())
            .map_err(|error| refuse(Reason::Internal, &error))?;
        let watched = self.client.watch().await;
        watched.map_err(|error| refuse(Reason::ProcessFailed, &error))
    }

    /// Takes over a node that outlived the agent.
    async fn adopt(&mut self) -> Result<(), Refusal> {
        let gone = |error| refuse(Reason::UnknownFederation, &error);
        let report = self.client.report().await.map_err(gone)?;
        // What the earlier agent ordered last may be about to happen.
        self.record.crew.doubt_all_but(&report.processes);
        let report = self.settle().await.map_err(gone)?;
        let events = self.client.watch().await.map_err(gone)?;
        for pool in self.record.crew.adopt(&report.processes) {
            self.replacements.lost(&pool, Instant::now());
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

    /// Says what the federation uses of the site: after every change, before anybody is answered.
    fn report_load(&self) {
        self.account.report(self.record.crew.load());
    }

    pub(super) fn save(&self) -> Result<(), StateError> {
        state::write_json(&self.folder.join("federation.json"), &self.record)
    }

    /// Ends everything.
    async fn end(&mut self, reason: &str) {
        if let Some(mut running) = self.running.take() {
            info!(reason, "federation ends");
            // A node that does not answer is killed below, or has ended with its lease.
            let stopped = tokio::time::timeout(2 * Leases::GRACE, self.client.stop()).await;
            let ended = match &mut running.supervision {
                Some(supervision) => supervision.ended(Leases::GRACE).await,
                None => matches!(stopped, Ok(Ok(()))),
            };
            if !ended {
                warn!("the node did not end when told to, and is killed");
            }
        }
        // One that was adopted, or could not be, is nobody's child.
        if let Err(processes) = process::end(&self.node, Duration::ZERO).await {
            error!(?processes, "processes of the node cannot be killed");
        }
        if let Err(error) = state::remove(&self.folder) {
            error!(%error, "files of an ended federation are left");
        }
        self.account.close();
        let _ = self.events.send(Happening::Ended {
            reason: reason.to_owned(),
        });
    }
}
