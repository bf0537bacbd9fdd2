//! The processes inside a node's sandbox, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fed_core::Leases;
use fed_sandbox::{Excess, ExitStatus, Handle, ProcessId, ProcessSpec};
use nix::sys::signal::Signal;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::protocol::{NodeEvent, ProcessRequest, Reply};
use super::spec::NodeFolder;

/// Starts, names and ends the processes of one sandbox.
#[derive(Debug)]
pub(super) struct Tasks {
    folder: NodeFolder,
    sandbox: Handle,
    running: BTreeMap<String, ProcessId>,
    asked: BTreeSet<ProcessId>,
    /// Why processes are being killed that used too much.
    condemned: BTreeMap<ProcessId, String>,
    /// Those that are being started, and their names.
    starting: JoinSet<Started>,
    beginning: BTreeSet<String>,
    /// Those of them whose end was told before it was known that they had started.
    gone: BTreeSet<ProcessId>,
    /// Names that were told to end before they ran: an order to start them comes too late.
    ended_before: BTreeSet<String>,
}

/// What came of starting a process, and who waits for it.
#[derive(Debug)]
pub(super) struct Started {
    name: String,
    process: Result<ProcessId, String>,
    reply: oneshot::Sender<Reply>,
}

impl Tasks {
    pub(super) fn new(folder: NodeFolder, sandbox: Handle) -> Self {
        Self {
            folder,
            sandbox,
            running: BTreeMap::new(),
            asked: BTreeSet::new(),
            condemned: BTreeMap::new(),
            starting: JoinSet::new(),
            beginning: BTreeSet::new(),
            gone: BTreeSet::new(),
            ended_before: BTreeSet::new(),
        }
    }

    /// Names of the processes that run, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.running.keys().cloned().collect()
    }

    /// Has a process started, and `reply` answered once it runs: the sandbox may take its time, or be
    /// stopped. One that runs already under this name is left alone.
    pub(super) fn start(&mut self, request: ProcessRequest, reply: oneshot::Sender<Reply>) {
        let name = request.name;
        let answer = if self.running.contains_key(&name) {
            Reply::Done
        } else if self.ended_before.contains(&name) {
            Reply::Failed(format!("{name} was told to end before it began"))
        } else if !self.beginning.insert(name.clone()) {
            Reply::Failed(format!("{name} is being started already"))
        } else {
            let spec = ProcessSpec {
                log: self.folder.process_log(&name),
                cwd: self.folder.scratch(),
                name: name.clone(),
                argv: request.argv,
                env: request.env,
                allowance: request.allowance,
            };
            let sandbox = self.sandbox.clone();
            self.starting.spawn(async move {
                let process = sandbox.run(spec).await;
                Started {
                    name,
                    process: process.map_err(|error| error.to_string()),
                    reply,
                }
            });
            return;
        };
        // Whoever asked may have left.
        let _ = reply.send(answer);
    }

    /// Waits for the next process that has been started, or could not be; `None` where none is to
    /// be. Cancel safe.
    pub(super) async fn next_started(&mut self) -> Option<Started> {
        let joined = self.starting.join_next().await?;
        Some(joined.expect("starting a process neither panics nor is cancelled"))
    }

    /// Notes that a process runs, or why not, and answers who asked for it.
    pub(super) fn started(&mut self, started: Started) {
        let Started {
            name,
            process,
            reply,
        } = started;
        self.beginning.remove(&name);
        let answer = match process {
            Ok(id) => {
                info!(process = name, %id, "process started");
                // Its end may have been told first.
                if !self.gone.remove(&id) {
                    self.running.insert(name.clone(), id);
                    if self.ended_before.contains(&name) {
                        self.terminate(&[name]);
                    }
                }
                Reply::Done
            }
            Err(problem) => Reply::Failed(problem),
        };
        let _ = reply.send(answer);
    }

    /// Notes the end of a process; returns what to tell.
    pub(super) fn ended(&mut self, id: ProcessId, name: String, status: ExitStatus) -> NodeEvent {
        let asked = self.asked.remove(&id);
        let why = self.condemned.remove(&id);
        if self.running.get(&name) == Some(&id) {
            self.running.remove(&name);
        } else if self.beginning.contains(&name) {
            self.gone.insert(id);
        }
        if asked {
            info!(process = name, %status, "process ended");
        } else {
            warn!(process = name, %status, "process ended by itself");
        }
        NodeEvent::Exited {
            name,
            status: why.map_or_else(|| status.to_string(), |why| format!("killed: {why}")),
            success: status == ExitStatus::Code(0),
            asked,
        }
    }

    /// Notes why processes are being killed: the one whose excess it is, all where it is nobody's.
    pub(super) fn condemn(&mut self, excess: &Excess) {
        let processes = self.running.iter().filter(|(_, id)| match excess.process {
            Some(process) => process == **id,
            None => true,
        });
        for (name, id) in processes {
            warn!(process = name, limit = %excess, "it is killed, because it used too much");
            self.condemned.insert(*id, excess.to_string());
        }
    }

    /// Asks processes to end, all of them if none is named, and does not wait for it. Those that are
    /// still there after [`Leases::GRACE`] are killed. One that does not run will not: orders come
    /// over connections of their own, and may overtake one another.
    pub(super) fn terminate(&mut self, names: &[String]) {
        let is_meant = |name: &String| names.is_empty() || names.contains(name);
        let beginning = self.beginning.iter().filter(|name| is_meant(name));
        let not_running = names
            .iter()
            .filter(|name| !self.running.contains_key(*name));
        self.ended_before
            .extend(not_running.chain(beginning).cloned());
        let chosen: Vec<ProcessId> = self
            .running
            .iter()
            .filter(|(name, _)| is_meant(name))
            .map(|(_, id)| *id)
            .collect();
        if chosen.is_empty() {
            return;
        }
        self.asked.extend(&chosen);
        let sandbox = self.sandbox.clone();
        tokio::spawn(async move {
            for id in &chosen {
                if let Err(error) = sandbox.signal(*id, Signal::SIGTERM as i32).await {
                    warn!(%id, %error, "process could not be signalled");
                }
            }
            tokio::time::sleep(Leases::GRACE).await;
            for id in chosen {
                // Most have ended by now, and their ids are never used again.
                let _ = sandbox.signal(id, Signal::SIGKILL as i32).await;
            }
        });
    }

    /// How long all processes together may take to end.
    pub(super) const PATIENCE: Duration = Leases::GRACE;
}
