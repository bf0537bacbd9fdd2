//! A supervisor's side of a node: starting one, and talking to it.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fed_core::Peer;
use fed_sandbox::ExitStatus;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::log;
use super::protocol::{GatewayInfo, NodeEvent, ProcessRequest, Ready, Reply, Report, Request};
use super::serve::PORT_PATIENCE;
use super::spec::{NodeFolder, NodeSpec};
use crate::control::{Connection, ControlError, PATIENCE};
use crate::state::{self, StateError};

/// How long a node may take to start.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Why a node could not be started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// Its folder could not be prepared.
    #[error(transparent)]
    State(#[from] StateError),
    /// The program could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended, or said nothing.
    #[error("the node did not start: {0}")]
    Failed(String),
}

/// Why a node did not do what it was asked.
#[derive(Debug, Error)]
pub enum NodeError {
    /// It could not be asked, or did not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It refused.
    #[error("{0}")]
    Refused(String),
    /// It answered something else.
    #[error("the node answered a call with another call's reply; is it another version of fed?")]
    Confused,
}

/// A node's process, while the supervisor that started it lives.
#[derive(Debug)]
pub struct Supervision {
    child: Child,
    /// Closed to end a node that has no lease.
    pipe: Option<ChildStdin>,
    /// Kept open: a node that ends takes its folder along.
    log: File,
}

/// The end of a node that nobody asked for.
#[derive(Debug)]
pub(crate) struct Death {
    /// How its process ended.
    pub(crate) status: String,
    log: io::Result<File>,
}

impl Death {
    /// The last `count` lines that it wrote.
    pub(crate) fn last_lines(self, count: usize) -> Vec<String> {
        let lines = self.log.and_then(|file| log::tail(file, count));
        lines.unwrap_or_default()
    }
}

impl Supervision {
    /// Waits until the node has ended; kills it after `patience`. Whether it ended by itself.
    pub async fn ended(&mut self, patience: Duration) -> bool {
        self.pipe = None;
        let by_itself = tokio::time::timeout(patience, self.child.wait())
            .await
            .is_ok();
        if !by_itself {
            // It is killed or has just ended; either way it is gone.
            let _ = self.child.kill().await;
        }
        by_itself
    }

    /// Waits until the node ends by itself, and returns how.
    pub(crate) async fn died(&mut self) -> Death {
        let status = match self.child.wait().await {
            Ok(status) => status.signal().map_or_else(
                || ExitStatus::Code(status.code().unwrap_or_default()).to_string(),
                |signal| ExitStatus::Signal(signal).to_string(),
            ),
            // A child that cannot be waited for is gone.
            Err(error) => error.to_string(),
        };
        Death {
            status,
            log: self.log.try_clone(),
        }
    }
}

/// Starts `fed node` in `folder`, which is made, and waits until it is ready.
///
/// # Errors
/// See [`SpawnError`]; nothing runs and the folder is gone then.
pub async fn spawn(
    program: &Path,
    folder: &NodeFolder,
    spec: &NodeSpec,
) -> Result<(Ready, Supervision), SpawnError> {
    let started = start(program, folder, spec).await;
    if started.is_err() {
        state::remove(folder.path())?;
    }
    started
}

async fn start(
    program: &Path,
    folder: &NodeFolder,
    spec: &NodeSpec,
) -> Result<(Ready, Supervision), SpawnError> {
    state::private_folder(folder.path())?;
    state::write_json(&folder.spec(), spec)?;
    let failed = |source| SpawnError::Start {
        program: program.to_owned(),
        source,
    };
    let log = File::create(folder.log()).map_err(failed)?;
    // A description of its own: where it is read does not move where the node writes.
    let reading = File::open(folder.log()).map_err(failed)?;
    let mut command = std::process::Command::new(program);
    // A group of its own: Ctrl-C in the operator's terminal is the operator's to answer.
    command
        .arg("node")
        .arg(folder.path())
        .process_group(0)
        .current_dir("/");
    let mut child = Command::from(command)
        .stdin(if spec.lease.is_some() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    let stdout = child.stdout.take().expect("standard output is piped");
    let pipe = child.stdin.take();
    let mut line = String::new();
    let mut reader = BufReader::new(stdout);
    let read = tokio::time::timeout(START_PATIENCE, reader.read_line(&mut line)).await;
    let mut supervision = Supervision {
        child,
        pipe,
        log: reading,
    };
    if let (Ok(Ok(_)), Ok(ready)) = (&read, serde_json::from_str(&line)) {
        return Ok((ready, supervision));
    }
    supervision.ended(Duration::ZERO).await;
    Err(SpawnError::Failed(last_words(folder)))
}

/// The last lines of a node's log that did not start.
fn last_words(folder: &NodeFolder) -> String {
    let log = std::fs::read_to_string(folder.log()).unwrap_or_default();
    let lines: Vec<&str> = log.lines().rev().take(5).collect();
    if lines.is_empty() {
        return "it said nothing".to_owned();
    }
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

/// Calls a node that runs.
#[derive(Clone, Debug)]
pub struct NodeClient {
    socket: PathBuf,
}

impl NodeClient {
    /// Names the node that lives in `folder`.
    pub fn new(folder: &NodeFolder) -> Self {
        Self {
            socket: folder.socket(),
        }
    }

    async fn call(&self, request: Request) -> Result<Reply, NodeError> {
        let patience = if matches!(request, Request::AwaitPort(_)) {
            PORT_PATIENCE + PATIENCE
        } else {
            PATIENCE
        };
        let mut connection = Connection::open(&self.socket).await?;
        match connection.call(&request, patience).await? {
            Reply::Failed(message) => Err(NodeError::Refused(message)),
            reply @ (Reply::Done | Reply::Report(_) | Reply::Gateway(_)) => Ok(reply),
        }
    }

    async fn order(&self, request: Request) -> Result<(), NodeError> {
        match self.call(request).await? {
            Reply::Done => Ok(()),
            Reply::Report(_) | Reply::Gateway(_) | Reply::Failed(_) => Err(NodeError::Confused),
        }
    }

    /// Asks how the node stands.
    ///
    /// # Errors
    /// See [`NodeError`], here and below.
    pub async fn report(&self) -> Result<Report, NodeError> {
        match self.call(Request::Report).await? {
            Reply::Report(report) => Ok(report),
            Reply::Done | Reply::Gateway(_) | Reply::Failed(_) => Err(NodeError::Confused),
        }
    }

    /// Replaces the node's peers.
    ///
    /// # Errors
    /// A key or an endpoint that is none.
    pub async fn connect(&self, peers: Vec<Peer>) -> Result<(), NodeError> {
        self.order(Request::Connect(peers)).await
    }

    /// Starts a process, unless one of this name runs.
    ///
    /// # Errors
    /// If its program cannot be executed inside.
    pub async fn run(&self, process: ProcessRequest) -> Result<(), NodeError> {
        self.order(Request::Run(process)).await
    }

    /// Asks processes to end, all if none is named, and does not wait for it.
    ///
    /// # Errors
    /// If the node is gone.
    pub async fn terminate(&self, names: Vec<String>) -> Result<(), NodeError> {
        self.order(Request::Terminate(names)).await
    }

    /// Waits until something listens at an address inside.
    ///
    /// # Errors
    /// If nothing does for a minute.
    pub async fn await_port(&self, address: SocketAddr) -> Result<(), NodeError> {
        self.order(Request::AwaitPort(address)).await
    }

    /// Opens the gateway and writes what clients need to `folder`.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn open_gateway(
        &self,
        folder: &Path,
        scheduler: SocketAddr,
        dashboard: SocketAddr,
    ) -> Result<GatewayInfo, NodeError> {
        let folder = folder.to_owned();
        match self
            .call(Request::OpenGateway {
                folder,
                scheduler,
                dashboard,
            })
            .await?
        {
            Reply::Gateway(info) => Ok(info),
            Reply::Done | Reply::Report(_) | Reply::Failed(_) => Err(NodeError::Confused),
        }
    }

    /// Renews the node's lease.
    ///
    /// # Errors
    /// If the node is gone.
    pub async fn renew(&self) -> Result<(), NodeError> {
        self.order(Request::Renew).await
    }

    /// Ends the node with all in it, and returns when its processes are gone.
    ///
    /// # Errors
    /// If the node is gone already.
    pub async fn stop(&self) -> Result<(), NodeError> {
        match self.order(Request::Stop).await {
            // It may be gone before its answer is on its way.
            Err(NodeError::Control(ControlError::Closed { .. })) => Ok(()),
            answered => answered,
        }
    }

    /// Subscribes to what happens from now on.
    ///
    /// # Errors
    /// If the node is gone.
    pub async fn watch(&self) -> Result<NodeEvents, NodeError> {
        let mut connection = Connection::open(&self.socket).await?;
        match connection.call(&Request::Watch, PATIENCE).await? {
            NodeEvent::Watching => Ok(NodeEvents(connection)),
            NodeEvent::Exited { .. } => Err(NodeError::Confused),
        }
    }
}

/// What happens in a node.
#[derive(Debug)]
pub struct NodeEvents(Connection);

impl NodeEvents {
    /// Waits for the next event; nothing once the node is gone.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        self.0.next(None).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use fed_core::{FederationId, MemberId};

    use super::*;

    #[tokio::test]
    async fn what_a_node_wrote_is_read_although_its_folder_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let ready = Ready {
            public_key: String::new(),
            udp_port: 1,
            addresses: Vec::new(),
            fingerprint: String::new(),
            pid: 1,
        };
        let ready = serde_json::to_string(&ready).unwrap();
        let program = place.path().join("fed");
        let script = format!(
            "#!/bin/sh\necho '{ready}'\nread -r nothing\necho one >&2\necho two >&2\n\
             rm -r \"$2\"\nkill -9 $$\n"
        );
        // Not by this process: a fork of another test would hold it open, and it could not be run.
        let write = r#"printf %s "$2" >"$1" && chmod 700 "$1""#;
        let written = std::process::Command::new("sh")
            .args(["-c", write, "sh"])
            .args([program.as_os_str(), script.as_ref()])
            .status();
        assert!(written.unwrap().success());
        let folder = NodeFolder::new(place.path().join("node"));
        let spec = NodeSpec {
            federation: FederationId::from_random([1; 5]),
            name: "fed".parse().unwrap(),
            member: MemberId::OPERATOR,
            members: Vec::new(),
            lease: None,
            read_only: Vec::new(),
            reach: Vec::new(),
            quotas: None,
        };
        let (_, mut supervision) = spawn(&program, &folder, &spec).await.unwrap();
        supervision.pipe = None;
        let death = supervision.died().await;
        assert!(!folder.path().exists());
        assert_eq!(death.status, "signal 9");
        assert_eq!(death.last_lines(1), ["two"]);
    }
}
