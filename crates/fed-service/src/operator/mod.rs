//! What `fed up` runs, and what the other commands ask of it.
//!
//! [`up`] carries out the life cycle of `fed-core` against real sites, holds their leases and
//! answers on a control socket; [`OperatorState`] is everything an operator keeps on disk;
//! [`enrol`] redeems an invitation; [`Running`] talks to a federation that is up.

mod awaited;
mod client;
mod driver;
mod end;
mod enrolment;
mod inbound;
mod loss;
mod metrics;
mod owner;
mod publish;
mod reach;
mod rendezvous;
mod renewals;
mod report;
mod rotation;
mod scheduler;
mod site;
mod standing;
mod state;
mod up;

pub use client::{DownError, Running, clean_up};
pub use end::FederationEnd;
pub use enrolment::{EnrolError, enrol};
pub use metrics::metrics;
pub use report::{MemberReport, Progress, Status, Step, StepState, Untold, WorkerReport};
pub use rotation::{RotateError, Rotated, rotate};
pub use site::SiteError;
pub use state::{FederationFolder, OperatorState, Record, Site, SiteRecordError, Way};
pub use up::{UpError, UpRequest, up};
