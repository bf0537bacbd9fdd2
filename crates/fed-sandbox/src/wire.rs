//! The socket pair between the halves: one JSON message in each packet, with at most one
//! descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
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
    let raw: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[] } else { &rights[..] };
    let parts = [IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &parts,
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            sent => return sent.map(drop).map_err(io::Error::from),
        }
    }
}

/// Receives one packet; `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let (length, descriptor) = loop {
        match receive_bytes(socket, &mut bytes) {
            Err(Errno::EINTR) => {}
            received => break received?,
        }
    };
    if length == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&bytes[..length])?;
    Ok(Some((message, descriptor)))
}

fn receive_bytes(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> nix::Result<(usize, Option<OwnedFd>)> {
    let mut control = cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let packet = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptor = None;
    for message in packet.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            for fd in raw {
                #[expect(unsafe_code, reason = "received descriptors come as integers")]
                // SAFETY: the kernel has just made this descriptor for us alone.
                let owned = unsafe { OwnedFd::from_raw_fd(fd) };
                descriptor = Some(owned);
            }
        }
    }
    Ok((packet.bytes, descriptor))
}
