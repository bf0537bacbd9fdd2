//! The control socket of a running `fed up`, both sides of it; and ending one whose process died.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use fed_core::{FederationId, FederationName, Leases, SiteName};
use fed_rpc::Identity;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::{broadcast, mpsc, oneshot};
use tracing::warn;

use super::driver::Driver;
use super::end::FederationEnd;
use super::inbound::Inbound;
use super::report::{Progress, Status, Untold, told_of};
use super::site::SiteClient;
use super::state::{FederationFolder, OperatorState, Record, Site};
use crate::control::{self, Connection, ControlError, PATIENCE, Writer};
use crate::node::{log, process};
use crate::state::{Lock, StateError};

/// How often a process that ends is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long a `fed up` may take from its first step until it answers.
const BEGINNING: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Status,
    Logs(u32),
    Down,
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Status(Box<Status>),
    Logs(BTreeMap<String, Vec<String>>),
    Progress(Progress),
}

/// What a connection asks of the owner.
#[derive(Debug)]
pub(super) enum Question {
    Status(oneshot::Sender<Status>),
    Logs(u32, oneshot::Sender<BTreeMap<String, Vec<String>>>),
    Down,
}

/// Accepts connections until it is aborted.
pub(super) async fn listen(
    listener: UnixListener,
    asking: mpsc::Sender<Question>,
    progress: broadcast::Sender<Progress>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if control::same_user(&stream) => {
                let (asking, progress) = (asking.clone(), progress.clone());
                tokio::spawn(control::serve(stream, move |request, writer| {
                    converse(request, writer, asking.clone(), progress.subscribe())
                }));
            }
            Ok(_) => warn!("another user tried the control socket"),
            Err(error) => {
                warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(
    request: Request,
    mut writer: Writer,
    asking: mpsc::Sender<Question>,
    mut progress: broadcast::Receiver<Progress>,
) -> io::Result<Writer> {
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    // Nobody is left who wants it, if this process was stopped for so long.
    writer.sign().await?;
    match request {
        Request::Status => {
            let (answer, reply) = oneshot::channel();
            let asked = asking.send(Question::Status(answer)).await;
            asked.map_err(|_| gone())?;
            let status = writer.wait(reply).await?.map_err(|_| gone())?;
            writer.send(&Reply::Status(Box::new(status))).await?;
        }
        Request::Logs(tail) => {
            let (answer, reply) = oneshot::channel();
            let asked = asking.send(Question::Logs(tail, answer)).await;
            asked.map_err(|_| gone())?;
            let logs = writer.wait(reply).await?.map_err(|_| gone())?;
            writer.send(&Reply::Logs(logs)).await?;
        }
        Request::Down => {
            asking.send(Question::Down).await.map_err(|_| gone())?;
            loop {
                match writer.wait(progress.recv()).await? {
                    Ok(told) => {
                        writer.send(&Reply::Progress(told.clone())).await?;
                        if let Progress::Ended { .. } = told {
                            break;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => break,
                }
            }
        }
    }
    Ok(writer)
}

/// The last lines of every log of a federation, by `site/process`.
pub(super) async fn gather_logs(
    driver: Driver,
    id: FederationId,
    tail: u32,
) -> BTreeMap<String, Vec<String>> {
    let mut logs = BTreeMap::new();
    for (name, client) in &driver.sites {
        match client.logs(id, tail).await {
            Ok(site) => logs.extend(
                site.into_iter()
                    .map(|(source, lines)| (format!("{name}/{source}"), lines)),
            ),
            Err(error) => {
                logs.insert(name.to_string(), vec![format!("cannot be read: {error}")]);
            }
        }
    }
    let node = driver.folder.node();
    let count = usize::try_from(tail).unwrap_or(usize::MAX);
    let own = [
        ("node", log::of_node(&node, count)),
        ("scheduler", log::of_process(&node, "scheduler", count)),
    ];
    logs.extend(own.map(|(name, lines)| (format!("operator/{name}"), lines)));
    logs
}

/// Why a federation could not be asked or ended.
#[derive(Debug, Error)]
pub enum DownError {
    /// There is none of this name.
    #[error("no federation is called {name}{}; {}", ended(.last.as_deref()), running(.others))]
    Unknown {
        /// What was asked for.
        name: FederationName,
        /// How the last one of this name ended, if not in order.
        last: Option<Box<FederationEnd>>,
        /// Those that there are.
        others: Vec<FederationName>,
    },
    /// Another command ends it, or starts it anew.
    #[error("federation {name} is being ended or started by another command; try again")]
    Busy {
        /// The federation.
        name: FederationName,
    },
    /// It has ended, but some sites could not be told.
    #[error("federation {name} has ended here, but {}", told_of(.untold))]
    Untold {
        /// The federation.
        name: FederationName,
        /// Those sites.
        untold: Vec<Untold>,
    },
    /// It has ended at its sites, but not on this host.
    #[error(
        "federation {name}: its node does not end here, although it was killed (processes {}); when \
         they have gone, `fed down {name}` removes what is left",
        numbers(.processes)
    )]
    Left {
        /// The federation.
        name: FederationName,
        /// The node's processes.
        processes: Vec<i32>,
    },
    /// Its `fed up` runs but does not answer.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The operator's identity cannot be used.
    #[error(transparent)]
    Identity(#[from] fed_rpc::identity::StoreError),
}

impl DownError {
    fn unknown(state: &OperatorState, name: &FederationName) -> Self {
        match state.federations() {
            Ok(others) => Self::Unknown {
                name: name.clone(),
                last: state.end_of(name).map(Box::new),
                others,
            },
            Err(error) => error.into(),
        }
    }
}

fn numbers(processes: &[i32]) -> String {
    let numbers: Vec<String> = processes.iter().map(i32::to_string).collect();
    numbers.join(", ")
}

fn ended(last: Option<&FederationEnd>) -> String {
    last.map(|last| format!(": {last}")).unwrap_or_default()
}

fn running(names: &[FederationName]) -> String {
    if names.is_empty() {
        return "none is up (`fed up SITE…` starts one)".to_owned();
    }
    let names: Vec<&str> = names.iter().map(FederationName::as_str).collect();
    format!("these are up: {}", names.join(", "))
}

/// A federation whose `fed up` answers.
#[derive(Debug)]
pub struct Running {
    name: FederationName,
    connection: Connection,
    folder: FederationFolder,
    process: u32,
}

impl Running {
    /// Connects to the `fed up` of this name, and waits for one that has just begun. `None` if the
    /// name is known but its process is gone.
    ///
    /// # Errors
    /// [`DownError::Unknown`].
    pub async fn find(
        state: &OperatorState,
        name: &FederationName,
    ) -> Result<Option<Self>, DownError> {
        let folder = state.federation(name);
        let begun = tokio::time::Instant::now();
        loop {
            // Asked first: what holds the lock now may be gone when the socket is tried.
            let lives = Lock::is_held(&folder.lock())?;
            let connected = Connection::open(&folder.socket()).await;
            match (connected, folder.record()?) {
                (Ok(connection), Some(record)) => {
                    return Ok(Some(Self {
                        name: name.clone(),
                        connection,
                        folder,
                        process: record.pid,
                    }));
                }
                (Err(ControlError::Unreachable { .. }), _) | (Ok(_), None)
                    if lives && begun.elapsed() < BEGINNING =>
                {
                    tokio::time::sleep(POLL).await;
                }
                (Err(error), _) if lives => return Err(error.into()),
                (_, None) => {
                    return Err(DownError::unknown(state, name));
                }
                (Err(ControlError::Unreachable { .. }), Some(_)) => return Ok(None),
                (Err(error), Some(_)) => return Err(error.into()),
            }
        }
    }

    /// Asks how it stands.
    ///
    /// # Errors
    /// If it ends in the meantime.
    pub async fn status(&mut self) -> Result<Status, DownError> {
        match self.connection.call(&Request::Status, PATIENCE).await? {
            Reply::Status(status) => Ok(*status),
            Reply::Logs(_) | Reply::Progress(_) => Err(self.confused()),
        }
    }

    /// Asks for the last `tail` lines of every log, by `site/process`; 0 asks for all.
    ///
    /// # Errors
    /// If it ends in the meantime.
    pub async fn logs(&mut self, tail: u32) -> Result<BTreeMap<String, Vec<String>>, DownError> {
        match self.connection.call(&Request::Logs(tail), PATIENCE).await? {
            Reply::Logs(logs) => Ok(logs),
            Reply::Status(_) | Reply::Progress(_) => Err(self.confused()),
        }
    }

    /// Ends it, and tells the progress until nothing is left.
    ///
    /// # Errors
    /// If the control socket breaks in the middle, or with [`DownError::Untold`].
    pub async fn down(mut self, mut progress: impl FnMut(Progress)) -> Result<(), DownError> {
        let mut reply: Option<Reply> = Some(self.connection.call(&Request::Down, PATIENCE).await?);
        let mut left = Vec::new();
        while let Some(Reply::Progress(told)) = reply {
            if let Progress::Ended { untold } = &told {
                left.clone_from(untold);
                progress(told);
                break;
            }
            progress(told);
            reply = self.connection.next(Some(PATIENCE)).await?;
        }
        self.await_process().await;
        all_told(&self.name, left)
    }

    /// Waits until the process of `fed up` is gone, too: then the name is free.
    async fn await_process(&self) {
        // A zombie, whose parent has not looked yet, has no executable any more.
        let executable = format!("/proc/{}/exe", self.process);
        let gone = async {
            while std::fs::read_link(&executable).is_ok() {
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(Leases::GRACE, gone).await.is_err() {
            warn!(pid = self.process, "the process of `fed up` is still there");
        }
    }

    fn confused(&self) -> DownError {
        DownError::Control(ControlError::Closed {
            path: self.folder.socket(),
        })
    }
}

/// Ends what a dead `fed up` left: tells its sites, and removes its folder.
///
/// # Errors
/// If there is no such federation, or somebody else is about to end it; [`DownError::Untold`] where
/// sites could not be told.
pub async fn clean_up(state: &OperatorState, name: &FederationName) -> Result<(), DownError> {
    let folder = state.federation(name);
    let lock = Lock::try_take(&folder.lock())?;
    let _lock = lock.ok_or_else(|| DownError::Busy { name: name.clone() })?;
    let Some(record) = folder.record()? else {
        return Err(DownError::unknown(state, name));
    };
    let untold = end_stale(state, &Inbound::of(state), name, record).await?;
    folder.remove_log()?;
    all_told(name, untold)
}

fn all_told(name: &FederationName, untold: Vec<Untold>) -> Result<(), DownError> {
    if untold.is_empty() {
        return Ok(());
    }
    Err(DownError::Untold {
        name: name.clone(),
        untold,
    })
}

/// Tells the sites of a dead `fed up`, and sees to it that its node ends too, which sees by itself
/// that it is alone unless something keeps it from it.
async fn end_stale(
    state: &OperatorState,
    inbound: &Inbound,
    name: &FederationName,
    record: Record,
) -> Result<Vec<Untold>, DownError> {
    let folder = state.federation(name);
    let identity = state.identity()?;
    let sites = state.sites()?;
    let told = record.sites.into_iter().map(async |site| {
        let left = match sites.get(&site) {
            None => Err("it is not enrolled any more".to_owned()),
            Some(known) => leave(state, inbound, &site, known, &identity, record.id).await,
        };
        let lease = Duration::from_secs(record.lease_seconds);
        left.err().map(|problem| Untold::now(site, problem, lease))
    });
    // All at once: each that is away is waited for.
    let told = futures::future::join_all(told);
    let node = folder.node();
    let (told, ended) = tokio::join!(told, process::end(&node, 2 * Leases::GRACE));
    ended.map_err(|processes| DownError::Left {
        name: name.clone(),
        processes,
    })?;
    folder.remove()?;
    Ok(told.into_iter().flatten().collect())
}

async fn leave(
    state: &OperatorState,
    inbound: &Inbound,
    name: &SiteName,
    site: &Site,
    identity: &Identity,
    id: FederationId,
) -> Result<(), String> {
    match SiteClient::connect(state, inbound, name.clone(), site, identity).await {
        Ok(client) => client.leave(id).await.map_err(|error| error.to_string()),
        Err(error) if error.is_dismissal() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes room for a new federation of this name. Whoever calls this holds the lock, so that the
/// process of an earlier one is gone.
pub(super) async fn clean_up_stale(
    state: &OperatorState,
    inbound: &Inbound,
    name: &FederationName,
) -> Result<(), DownError> {
    let folder = state.federation(name);
    let Some(record) = folder.record()? else {
        // It may have died before it wrote one.
        return Ok(folder.remove()?);
    };
    for untold in end_stale(state, inbound, name, record).await? {
        warn!("of an earlier federation {name}: {untold}");
    }
    Ok(())
}
