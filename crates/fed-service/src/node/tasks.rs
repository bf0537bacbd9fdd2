//! The processes inside a node's sandbox, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fed_core::Leases;
use fed_sandbox::{Excess, ExitStatus, Handle, ProcessId, ProcessSpec};
use nix::sys::signal::Signal;
use tracing::{info, warn};

use super::protocol::{NodeEvent, ProcessRequest};
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
    /// Names that were told to end before they ran: an order to start them comes too late.
    ended_before: BTreeSet<String>,
}

impl Tasks {
    pub(super) fn new(folder: NodeFolder, sandbox: Handle) -> Self {
        Self {
            folder,
            sandbox,
            running: BTreeMap::new(),
            asked: BTreeSet::new(),
            condemned: BTreeMap::new(),
            ended_before: BTreeSet::new(),
        }
    }

    /// Names of the processes that run, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.running.keys().cloned().collect()
    }

    /// Starts a process. One that runs already under this name is left alone.
    pub(super) async fn run(&mut self, request: ProcessRequest) -> Result<(), String> {
        if self.running.contains_key(&request.name) {
            return Ok(());
        }
        if self.ended_before.contains(&request.name) {
            return Err(format!("{} was told to end before it began", request.name));
        }
        let spec = ProcessSpec {
            log: self.folder.process_log(&request.name),
            cwd: self.folder.scratch(),
            name: request.name.clone(),
            argv: request.argv,
            env: request.env,
            allowance: request.allowance,
        };
        let id = self
            .sandbox
            .run(spec)
            .await
            .map_err(|error| error.to_string())?;
        info!(process = request.name, %id, "process started");
        self.running.insert(request.name, id);
        Ok(())
    }

    /// Notes the end of a process; returns what to tell.
    pub(super) fn ended(&mut self, id: ProcessId, name: String, status: ExitStatus) -> NodeEvent {
        let asked = self.asked.remove(&id);
        let why = self.condemned.remove(&id);
        if self.running.get(&name) == Some(&id) {
            self.running.remove(&name);
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

    /// Asks processes to end, all of them if none is named. Those that are still there after
    /// [`Leases::GRACE`] are killed. One that does not run will not: orders come over connections of
    /// their own, and may overtake one another.
    pub(super) async fn terminate(&mut self, names: &[String]) {
        let not_running = names
            .iter()
            .filter(|name| !self.running.contains_key(*name));
        self.ended_before.extend(not_running.cloned());
        let chosen: Vec<ProcessId> = self
            .running
            .iter()
            .filter(|(name, _)| names.is_empty() || names.contains(name))
            .map(|(_, id)| *id)
            .collect();
        for id in &chosen {
            self.asked.insert(*id);
            self.signal(*id, Signal::SIGTERM).await;
        }
        if chosen.is_empty() {
            return;
        }
        let sandbox = self.sandbox.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Leases::GRACE).await;
            for id in chosen {
                // Most have ended by now, and their ids are never used again.
                let _ = sandbox.signal(id, Signal::SIGKILL as i32).await;
            }
        });
    }

    async fn signal(&self, id: ProcessId, signal: Signal) {
        if let Err(error) = self.sandbox.signal(id, signal as i32).await {
            warn!(%id, %error, "process could not be signalled");
        }
    }

    /// How long all processes together may take to end.
    pub(super) const PATIENCE: Duration = Leases::GRACE;
}
