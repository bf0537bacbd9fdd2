//! The running agent's control socket: what `fed agent` commands on the same host ask of it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::keys::{Announced, KeyError, Keys};
use super::roster::{Operator, Roster, RosterError};
use crate::control::{self, Connection, ControlError, PATIENCE, Writer};
use crate::state::StateError;

/// What an agent is asked, and asks itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// End what these keys' operator runs: they are off the roster.
    EndOperator { name: String, id: String },
    /// Look for a new key, and whether its time has come.
    LookAtKeys,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// How many federations were ended.
    Ended(usize),
    Done,
}

/// A request, and who waits for its reply.
pub(super) type Asked = (Request, oneshot::Sender<Reply>);

pub(super) fn socket(state: &Path) -> PathBuf {
    state.join("agent.sock")
}

/// Accepts connections until it is aborted.
pub(super) async fn listen(listener: UnixListener, asking: mpsc::Sender<Asked>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if control::same_user(&stream) => {
                let asking = asking.clone();
                tokio::spawn(control::serve(stream, move |request, writer| {
                    pass_on(request, writer, asking.clone())
                }));
            }
            Ok(_) => warn!("another user tried the agent's control socket"),
            Err(error) => {
                warn!(%error, "the agent's control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn pass_on(
    request: Request,
    mut writer: Writer,
    asking: mpsc::Sender<Asked>,
) -> io::Result<Writer> {
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let (answer, reply) = oneshot::channel();
    asking.send((request, answer)).await.map_err(|_| gone())?;
    // Done even if whoever asked has left: what was changed in the files is to count.
    let reply = writer.wait(reply).await?.map_err(|_| gone())?;
    writer.send(&reply).await?;
    Ok(writer)
}

/// Asks the running agent; nothing if none runs.
async fn ask(state: &Path, request: &Request) -> Result<Option<Reply>, ControlError> {
    match Connection::open(&socket(state)).await {
        Ok(mut connection) => connection.call(request, PATIENCE).await.map(Some),
        Err(ControlError::Unreachable { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why the roster or the keys of an agent could not be changed.
#[derive(Debug, Error)]
pub enum DeskError {
    /// The operator is not known, or a file could not be changed.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The agent has no key, or it cannot be changed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The running agent did not answer.
    #[error("the change counts, but the running agent could not be told: {0}; restart it")]
    Control(#[from] ControlError),
}

/// What [`remove_operator`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The operator's keys, none of which counts any more.
    pub keys: Vec<Operator>,
    /// How many of their federations were ended; nothing if no agent runs. Those end with their
    /// leases, or when an agent starts.
    pub ended: Option<usize>,
}

/// Takes an operator off the roster and ends what they run. `given` is a name or a fingerprint.
///
/// # Errors
/// See [`DeskError`].
pub async fn remove_operator(state: &Path, given: &str) -> Result<Removed, DeskError> {
    let keys = Roster::open(state)?.remove(given)?;
    let request = Request::EndOperator {
        name: keys[0].name.clone(),
        id: keys[0].id().to_owned(),
    };
    let ended = match ask(state, &request).await? {
        Some(Reply::Ended(ended)) => Some(ended),
        Some(Reply::Done) | None => None,
    };
    Ok(Removed { keys, ended })
}

/// Announces a new key of the agent, which it changes to after this time; at once if that is zero.
///
/// # Errors
/// See [`DeskError`].
pub async fn rotate(state: &Path, name: &str, after: Duration) -> Result<Announced, DeskError> {
    let keys = Keys::of(state);
    keys.own().map_err(KeyError::from)?;
    let announced = keys.announce(name, after)?;
    if ask(state, &Request::LookAtKeys).await?.is_none() && after.is_zero() {
        keys.change()?;
    }
    Ok(announced)
}
