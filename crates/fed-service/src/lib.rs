//! The long-running processes of fed, a module each.
//!
//! - [`node`]: one member's end of a federation on one host: mesh router outside, sandbox inside.
//! - [`agent`]: the daemon of a data centre, which answers operators.
//! - [`operator`]: what `fed up` runs: carries out the life cycle, holds the leases.
//! - [`gateway`]: the listeners on the operator's host through which clients reach the scheduler.
//!
//! This crate does IO and nothing but IO's glue: decisions are made in `fed-core`, packets are
//! routed in `fed-mesh`. It prints nothing; the command line does.

pub mod agent;
pub mod control;
mod convert;
mod deadline;
mod descriptors;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod node;
pub mod operator;
pub mod python;
mod quiet;
pub mod state;
