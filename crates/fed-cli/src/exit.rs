//! Exit codes: the one table of them.

use std::process::{ExitCode, ExitStatus};

use fed_service::agent::SetupError;
use fed_service::operator::{DownError, EnrolError, SiteRecordError, UpError};

/// The table, for `--help`.
pub(crate) const HELP: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 no such site or federation; 4 name taken; \
5 a site cannot be reached or refuses; 6 the request cannot be met; 7 this host cannot run it.";

const FAILED: u8 = 1;
const UNKNOWN: u8 = 3;
const TAKEN: u8 = 4;
const SITE: u8 = 5;
const REQUEST: u8 = 6;
const HOST: u8 = 7;

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
    if let Some(error) = error.downcast_ref::<UpError>() {
        return match error {
            UpError::Request(_) => REQUEST,
            UpError::Site(SiteRecordError::Unknown { .. }) => UNKNOWN,
            UpError::Taken(_) => TAKEN,
            UpError::Unsupported(_) | UpError::Python(_) => HOST,
            UpError::Failed(failure) if failure.member.as_deref() == Some("operator") => FAILED,
            UpError::Failed(failure) if failure.member.is_some() => SITE,
            UpError::Failed(_) => REQUEST,
            UpError::Site(SiteRecordError::State(_))
            | UpError::State(_)
            | UpError::Identity(_)
            | UpError::System(_)
            | UpError::Exposed { .. } => FAILED,
        };
    }
    if let Some(SiteRecordError::Unknown { .. }) = error.downcast_ref() {
        return UNKNOWN;
    }
    if let Some(DownError::Unknown { .. }) = error.downcast_ref() {
        return UNKNOWN;
    }
    if let Some(EnrolError::Connect { .. } | EnrolError::Call { .. }) = error.downcast_ref() {
        return SITE;
    }
    match error.downcast_ref() {
        Some(SetupError::Unsupported(_) | SetupError::Python(_) | SetupError::Package { .. }) => {
            HOST
        }
        _ => FAILED,
    }
}
