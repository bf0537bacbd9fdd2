//! How errors cross the wire: one table from an agent's reasons to gRPC codes, and back.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::str::FromStr;

use thiserror::Error;
use tonic::{Code, Status};

use crate::client::ConnectError;

/// How the message of [`Reason::UnknownFederation`] begins where the site knows why the federation
/// has ended; the reason follows.
pub const ENDED_HERE: &str = "the federation has ended here: ";
/// Metadata in which a [`Reason`] travels.
const REASON_KEY: &str = "fed-reason";
/// Longest message that is sent, in bytes. It travels in an HTTP/2 header, percent-encoded (up to
/// three times as long), and peers take 16 KiB of headers.
const MAX_MESSAGE_LEN: usize = 4096;
const ELLIPSIS: &str = " …";

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal, $code:ident;)*) => {
        /// Why an agent did not do what it was asked, for machines to tell apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        /// Every reason, its name on the wire, and its gRPC code.
        const TABLE: &[(Reason, &str, Code)] = &[$((Reason::$reason, $name, Code::$code),)*];
    };
}

reasons! {
    /// A field of the request makes no sense.
    InvalidRequest = "invalid-request", InvalidArgument;
    /// The caller's key may not make this call.
    NotAllowed = "not-allowed", PermissionDenied;
    /// The caller has not proved to hold the key that it wants to call with from now on.
    UnprovenKey = "unproven-key", PermissionDenied;
    /// The federation belongs to another operator.
    ForeignFederation = "foreign-federation", PermissionDenied;
    /// The invitation is used up, withdrawn or expired.
    InvitationSpent = "invitation-spent", PermissionDenied;
    /// The site knows no such federation: never prepared, ended, or its lease has lapsed.
    UnknownFederation = "unknown-federation", NotFound;
    /// The site has no such pool.
    UnknownPool = "unknown-pool", NotFound;
    /// The federation has no such worker.
    UnknownWorker = "unknown-worker", NotFound;
    /// The federation exists already, and otherwise than asked for.
    Conflict = "conflict", AlreadyExists;
    /// An earlier step is missing, such as `Connect` before `Start`.
    OutOfOrder = "out-of-order", FailedPrecondition;
    /// The site allows no more workers or federations.
    Exhausted = "exhausted", ResourceExhausted;
    /// The site lacks something that it needs: a device, user namespaces, a Python package.
    SiteNotReady = "site-not-ready", FailedPrecondition;
    /// A process of the federation at the site did not start or has died.
    ProcessFailed = "process-failed", Aborted;
    /// The agent is about to end.
    ShuttingDown = "shutting-down", Unavailable;
    /// A fault of the agent itself; its log has more.
    Internal = "internal", Internal;
}

impl Reason {
    fn row(self) -> &'static (Self, &'static str, Code) {
        TABLE
            .iter()
            .find(|row| row.0 == self)
            .expect("the table holds every reason")
    }

    /// Returns the name on the wire.
    pub fn as_str(self) -> &'static str {
        self.row().1
    }

    /// Returns the gRPC code.
    pub fn code(self) -> Code {
        self.row().2
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A name that stands for no reason this version knows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no reason that this version of fed knows")]
pub struct UnknownReason(pub String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Self, UnknownReason> {
        TABLE
            .iter()
            .find(|row| row.1 == name)
            .map(|row| row.0)
            .ok_or_else(|| UnknownReason(name.to_owned()))
    }
}

/// An agent's "no": a reason for machines and a sentence for people.
///
/// The agent's errors become one of these, it becomes a [`Status`] on the wire, and the caller
/// gets it back as [`CallError::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of refusal it is.
    pub reason: Reason,
    /// What failed, where, and what to do.
    pub message: String,
}

impl Refusal {
    /// Returns a refusal with this sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// Returns a refusal whose sentence is the error and all its sources, joined by colons.
    pub fn from_error(reason: Reason, error: &(dyn StdError + 'static)) -> Self {
        let whole: Vec<String> = chain(error).map(ToString::to_string).collect();
        Self::new(reason, whole.join(": "))
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let mut status = Self::new(refusal.reason.code(), shorten(refusal.message));
        let name = refusal.reason.as_str().parse().expect("reasons are ASCII");
        status.metadata_mut().insert(REASON_KEY, name);
        status
    }
}

/// Why a call failed, as the caller sees it.
#[derive(Debug, Error)]
pub enum CallError {
    /// The agent said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The connection was lost and could not be made again; the text says why.
    #[error("{0}")]
    Connection(String),
    /// The connection was lost, and the agent turned the caller's key away when it was made again.
    #[error("{0}")]
    Unenrolled(String),
    /// The connection broke during the call, or the agent ended. The call may have been carried
    /// out; calls are idempotent, so make it again.
    #[error("the connection to the agent broke during the call: {message}; try again")]
    Broken {
        /// What the transport said.
        message: String,
    },
    /// The call took longer than the caller allowed.
    #[error("the agent did not answer in time: {message}")]
    Deadline {
        /// What the transport said.
        message: String,
    },
    /// The agent, or something between, answered outside this table: most likely another version.
    #[error("the agent answered {code:?}: {message}")]
    Other {
        /// The gRPC code.
        code: Code,
        /// What was said.
        message: String,
        /// The reason's name, when there is one that this version does not know.
        reason: Option<String>,
    },
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        let reason = status
            .metadata()
            .get(REASON_KEY)
            .and_then(|name| name.to_str().ok());
        if let Some(Ok(reason)) = reason.map(str::parse) {
            return Self::Refused(Refusal { reason, message });
        }
        if let Some(error) = chain(&status).find_map(|cause| cause.downcast_ref::<ConnectError>()) {
            let whole: Vec<String> = chain(error).map(ToString::to_string).collect();
            let whole = whole.join(": ");
            let is_refused = matches!(error, ConnectError::Refused { .. });
            return if is_refused {
                Self::Unenrolled(whole)
            } else {
                Self::Connection(whole)
            };
        }
        let code = status.code();
        let from_transport = status.source().is_some();
        // tonic reports its own time limit as a cancellation.
        if code == Code::DeadlineExceeded || (from_transport && code == Code::Cancelled) {
            return Self::Deadline { message };
        }
        if from_transport && matches!(code, Code::Unavailable | Code::Unknown | Code::Internal) {
            return Self::Broken {
                message: chain(&status).last().map_or(message, said_by_transport),
            };
        }
        Self::Other {
            code,
            message,
            reason: reason.map(str::to_owned),
        }
    }
}

/// The sentence of an error of the transport. rustls's own for an end of file speaks of its
/// callers' code.
fn said_by_transport(error: &(dyn StdError + 'static)) -> String {
    match error.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it ended without a word, as when the agent is killed".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The error and its sources, outermost first.
fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn StdError + 'static)| {
        error.source()
    })
}

/// Cuts a message so that it fits in a header.
fn shorten(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_LEN {
        let end = (0..=MAX_MESSAGE_LEN - ELLIPSIS.len())
            .rev()
            .find(|end| message.is_char_boundary(*end))
            .expect("a text may be cut before its first character");
        message.truncate(end);
        message.push_str(ELLIPSIS);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_and_its_message_come_back() {
        for (reason, name, code) in TABLE {
            assert_eq!(name.parse(), Ok(*reason));
            let refusal = Refusal::new(*reason, "pool “x” ist voll\nask the site");
            let status = Status::from(refusal.clone());
            assert_eq!(status.code(), *code);
            let CallError::Refused(back) = CallError::from(status) else {
                panic!("{reason} was not recognised");
            };
            assert_eq!(back, refusal);
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = TABLE.iter().map(|row| row.1).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn a_reason_of_a_later_version_keeps_its_name_and_message() {
        let mut status = Status::failed_precondition("the moon is full");
        status
            .metadata_mut()
            .insert(REASON_KEY, "full-moon".parse().unwrap());
        let CallError::Other {
            code,
            message,
            reason,
        } = CallError::from(status)
        else {
            panic!("recognised");
        };
        assert_eq!(code, Code::FailedPrecondition);
        assert_eq!(message, "the moon is full");
        assert_eq!(reason.as_deref(), Some("full-moon"));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let status = Status::from(Refusal::new(Reason::Internal, "ä".repeat(4000)));
        assert!(status.message().len() <= MAX_MESSAGE_LEN);
        assert!(status.message().ends_with("ä …"));
    }

    #[test]
    fn an_error_is_told_with_its_sources() {
        let inner = io::Error::new(io::ErrorKind::NotFound, "no such device");
        let error = UnreachableDevice { source: inner };
        let refusal = Refusal::from_error(Reason::SiteNotReady, &error);
        assert_eq!(refusal.message, "cannot open the tunnel: no such device");
    }

    #[derive(Debug, Error)]
    #[error("cannot open the tunnel")]
    struct UnreachableDevice {
        source: io::Error,
    }
}
