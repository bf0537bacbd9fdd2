//! What a federation is, without IO: names, the addresses of its data plane, the plan made of an
//! inventory, a request and what the sites answered, and the [`Lifecycle`] that says what to do
//! next.
//!
//! This crate opens no socket and no file, starts no process and reads no clock. Whoever drives it
//! carries out the [`Action`]s it names and hands back [`Event`]s; tests do the same without a
//! network.

mod address;
mod destination;
mod distance;
mod lease;
mod lifecycle;
mod name;
mod plan;
mod site;
mod versions;

pub use address::{FederationId, ParseFederationIdError, SCHEDULER_PORT};
pub use destination::{Destination, DestinationError};
pub use distance::nearest;
pub use lease::Leases;
pub use lifecycle::{
    Action, Event, Failure, FailureKind, Lifecycle, MemberState, Peer, Phase, Reason,
};
pub use name::{FederationName, NameError, PoolName, SiteName};
pub use plan::{Member, MemberId, Plan, PlanError, PoolPlan, Request, SitePlan, WorkerCount};
pub use site::{PoolOffer, PythonEnvironment, SiteDescription};
pub use versions::{Agreement, VersionRow, VersionTable};
