//! The socket pair between the halves: one JSON message in each packet, with at most one
//! descriptor.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::passing;
use crate::spec::{ExitStatus, IpFamily, ProcessId, ProcessSpec, ProcessStep};

/// The largest message in bytes: fits the smallest usual send buffer of a socket (208 KiB).
pub(crate) const MAX_MESSAGE: usize = 128 * 1024;

/// From the outer half to PID 1.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The process gets the request's number as its id.
    Run {
        spec: ProcessSpec,
    },
    Signal {
        process: ProcessId,
        signal: i32,
    },
    Socket {
        family: IpFamily,
    },
    /// Kill every process but PID 1, all at once.
    KillAll,
    /// Stop every process but PID 1, all at once.
    StopAll,
    /// Kill these, unless PID 1 has started them itself.
    Purge {
        strays: Vec<i32>,
    },
    /// Let all go on that were stopped.
    ContinueAll,
}

/// A request with the number that its reply will bear.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) request: Request,
}

/// From PID 1 to the outer half.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// The sandbox's `/proc`, as a folder; comes before [`Notice::Ready`].
    Processes,
    /// The sandbox stands; comes with the TUN.
    Ready,
    /// The sandbox could not be made.
    Failed(Failure),
    /// The answer to a request; a socket comes with it.
    Reply {
        number: u64,
        /// Of a process that was started, its number inside.
        result: Result<Option<i32>, Refusal>,
    },
    /// A process ended.
    Exited {
        process: ProcessId,
        status: ExitStatus,
    },
}

/// Why PID 1 did not do what it was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    /// Only for processes that could not be started.
    pub(crate) step: Option<ProcessStep>,
    pub(crate) errno: i32,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self {
            step: None,
            errno: errno as i32,
        }
    }
}

/// Writes a message as the bytes of one packet.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MAX_MESSAGE {
        Err(EncodeError::Long(bytes.len()))
    } else {
        Ok(bytes)
    }
}

/// Why a message cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    #[error("it takes {0} bytes")]
    Long(usize),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Sends one packet.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    // A packet is sent as a whole.
    passing::send(socket, bytes, descriptor).map(drop)
}

/// Receives one packet; `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let (length, descriptor) = passing::receive(socket, &mut bytes)?;
    if length == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes[..length])?;
    Ok(Some((message, descriptor)))
}
