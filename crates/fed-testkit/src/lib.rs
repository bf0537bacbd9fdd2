//! Several hosts on one machine for fed's tests and its demonstration: a dev crate, never shipped.
//!
//! A [`Lab`] makes hosts out of namespaces and joins them with a [`wan::Wan`], which delays, limits,
//! loses and counts their frames. [`refuse_long_writev`] stands in for a kernel that lacks something.
//! [`Leftovers`] tells what a test has left behind. The lab needs root, or a user namespace
//! ([`enter`]); [`check`] says what is missing.
//!
//! The crate must not know fed: it starts programs and moves frames, whatever they are.

mod lab;
mod leftovers;
mod privilege;
mod procfs;
mod seccomp;
pub mod wan;

pub use lab::{ExecError, Host, HostUser, Lab, LabBuilder, LabError, exec_in_host};
pub use leftovers::{Leftovers, LeftoversError, Snapshot};
pub use privilege::{EnterError, Missing, check, enter};
pub use procfs::Process;
pub use seccomp::refuse_long_writev;
