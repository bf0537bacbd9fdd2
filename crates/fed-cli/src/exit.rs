//! Exit codes: the one table of them.

use std::io::ErrorKind;
use std::process::{ExitCode, ExitStatus};

use fed_core::{FailureKind, PlanError};
use fed_rpc::invitation::InvitationError;
use fed_service::agent::{AgentError, ConfigError, DeskError, DraftError, RosterError, SetupError};
use fed_service::operator::{DownError, EnrolError, RotateError, SiteRecordError, UpError};

use crate::logs::NoSuchLog;

/// The table, for `--help`. `docs/exit-codes.md` has it with examples.
pub(crate) const HELP: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage or configuration; 3 no such site, federation or \
operator; 4 name, port or state folder taken; 5 a site cannot be reached or refuses; 6 the request \
cannot be met; 7 this host cannot run it; 8 UDP is blocked between two members; 130 interrupted before it \
was up.";

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const UNKNOWN: u8 = 3;
const TAKEN: u8 = 4;
const SITE: u8 = 5;
const REQUEST: u8 = 6;
const HOST: u8 = 7;
const BLOCKED: u8 = 8;

/// An error of a process that was started, which has chosen its exit code already.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Elsewhere {
    message: String,
    code: u8,
}

impl Elsewhere {
    pub(crate) fn new(message: String, status: ExitStatus) -> Self {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Self {
            message,
            code: code.filter(|code| *code != 0).unwrap_or(FAILED),
        }
    }
}

/// Chooses the exit code of an error.
pub(crate) fn code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(number(error))
}

fn number(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<Elsewhere>() {
        return error.code;
    }
    error
        .downcast_ref::<UpError>()
        .map(of_up)
        .or_else(|| error.downcast_ref::<DownError>().map(of_down))
        .or_else(|| error.downcast_ref::<SiteRecordError>().map(of_site))
        .or_else(|| error.downcast_ref::<EnrolError>().map(of_enrolment))
        .or_else(|| error.downcast_ref::<RotateError>().map(of_rotation))
        .or_else(|| error.downcast_ref::<AgentError>().map(of_agent))
        .or_else(|| error.downcast_ref::<SetupError>().map(of_setup))
        .or_else(|| error.downcast_ref::<DraftError>().map(of_draft))
        .or_else(|| error.downcast_ref::<DeskError>().map(of_desk))
        .or_else(|| error.downcast_ref::<RosterError>().map(of_roster))
        .or_else(|| error.downcast_ref::<ConfigError>().map(|_| USAGE))
        .or_else(|| error.downcast_ref::<InvitationError>().map(|_| USAGE))
        .or_else(|| error.downcast_ref::<NoSuchLog>().map(|_| USAGE))
        .unwrap_or(FAILED)
}

fn of_up(error: &UpError) -> u8 {
    match error {
        // As shells have it for a program that a signal ended.
        UpError::Interrupted { signal } | UpError::Abandoned { signal, .. } => {
            u8::try_from(128 + signal).unwrap_or(FAILED)
        }
        UpError::Request(PlanError::RepeatedSite(_)) => USAGE,
        UpError::Request(_) => REQUEST,
        UpError::Site(error) => of_site(error),
        UpError::Taken { .. } => TAKEN,
        UpError::Untold { .. } => SITE,
        UpError::Unsupported(_)
        | UpError::Python(_)
        | UpError::NoDistributed { .. }
        | UpError::NoPackage { .. } => HOST,
        UpError::Failed(failure) if failure.kind == FailureKind::Blocked => BLOCKED,
        UpError::Failed(failure) if failure.kind == FailureKind::Taken => TAKEN,
        UpError::Failed(failure) if failure.member.as_deref() == Some("operator") => FAILED,
        UpError::Failed(failure) if failure.member.is_some() => SITE,
        UpError::Failed(_) => REQUEST,
        UpError::Stale { .. }
        | UpError::State(_)
        | UpError::Identity(_)
        | UpError::System(_)
        | UpError::Exposed { .. } => FAILED,
    }
}

fn of_down(error: &DownError) -> u8 {
    match error {
        DownError::Unknown { .. } => UNKNOWN,
        DownError::Busy { .. } => TAKEN,
        DownError::Untold { .. } => SITE,
        DownError::Left { .. }
        | DownError::Control(_)
        | DownError::State(_)
        | DownError::Identity(_) => FAILED,
    }
}

fn of_site(error: &SiteRecordError) -> u8 {
    match error {
        SiteRecordError::Unknown { .. } => UNKNOWN,
        SiteRecordError::State(_) => FAILED,
    }
}

fn of_enrolment(error: &EnrolError) -> u8 {
    match error {
        EnrolError::Connect { source, .. } if source.is_port_taken() => TAKEN,
        EnrolError::Connect { .. }
        | EnrolError::Call { .. }
        | EnrolError::Spent { .. }
        | EnrolError::Expired => SITE,
        EnrolError::Name(_)
        | EnrolError::OtherSite { .. }
        | EnrolError::Where { .. }
        | EnrolError::NoDial { .. }
        | EnrolError::OtherListen { .. } => USAGE,
        EnrolError::Identity(_) | EnrolError::State(_) => FAILED,
    }
}

fn of_rotation(error: &RotateError) -> u8 {
    match error {
        RotateError::Untold(_) => SITE,
        RotateError::Busy => TAKEN,
        RotateError::Identity(_) | RotateError::State(_) => FAILED,
    }
}

fn of_agent(error: &AgentError) -> u8 {
    match error {
        AgentError::Listen { source, .. } if source.kind() == ErrorKind::AddrInUse => TAKEN,
        AgentError::Running(_) => TAKEN,
        AgentError::Unsupported(_) | AgentError::Python { .. } => HOST,
        AgentError::Listen { .. } | AgentError::Folder { .. } | AgentError::Exposed { .. } => USAGE,
        AgentError::State(_)
        | AgentError::Identity(_)
        | AgentError::Key(_)
        | AgentError::System(_)
        | AgentError::Serve(_) => FAILED,
    }
}

fn of_setup(error: &SetupError) -> u8 {
    match error {
        SetupError::Unsupported(_) | SetupError::Package { .. } => HOST,
        SetupError::Agent(error) => of_agent(error),
        SetupError::User { .. } | SetupError::Invitation(_) => USAGE,
        SetupError::State(_) | SetupError::Identity(_) | SetupError::Key(_) => FAILED,
    }
}

fn of_draft(error: &DraftError) -> u8 {
    match error {
        DraftError::Write { .. } => FAILED,
        DraftError::Unknown { .. } | DraftError::Wrong { .. } | DraftError::Differs { .. } => USAGE,
    }
}

fn of_desk(error: &DeskError) -> u8 {
    match error {
        DeskError::Roster(error) => of_roster(error),
        DeskError::Key(_) | DeskError::State(_) | DeskError::Control(_) => FAILED,
    }
}

fn of_roster(error: &RosterError) -> u8 {
    match error {
        RosterError::Unknown { .. } => UNKNOWN,
        RosterError::Ambiguous { .. } => USAGE,
        RosterError::Spent
        | RosterError::Taken
        | RosterError::OtherName { .. }
        | RosterError::Replaced { .. }
        | RosterError::TooMany { .. }
        | RosterError::Removed { .. }
        | RosterError::State(_) => FAILED,
    }
}
