//! The inner half of `fed node`: a sandbox with its own user, network, mount, PID, IPC and UTS
//! namespaces, and a PID 1 that runs and reaps processes in it.
//!
//! The outer half calls [`spawn`] while it has one thread and no runtime yet. That forks PID 1,
//! which makes the TUN device and the mounts, gives up every capability, and then serves requests
//! over a socket pair: run a process, signal it, hand out a TCP socket of the sandbox's network.
//! The outer half gets the TUN's file descriptor and an [`Inner`], the tokio client of PID 1.
//!
//! [`Quotas`] say what its processes may use together, and an [`Allowance`] what one may use with
//! all that it starts: whoever uses more is ended, and an [`Event`] says so.
//!
//! What ends a sandbox: its PID 1 ends when the socket pair closes, so at the death of the outer
//! half too, and the kernel kills everything in the PID namespace with it. The network namespace
//! lives on while somebody holds the TUN or a socket of it: drop those as well.
//!
//! This crate must not route packets, know of federations, or keep a secret in the memory of the
//! process at the time of [`spawn`]: PID 1 is a copy of it.
//!
//! The main types are [`SandboxSpec`], [`Sandbox`], [`Inner`] and [`Handle`].

mod census;
mod clone;
mod device;
mod failure;
mod group;
mod handle;
mod identity;
mod init;
mod inner;
mod kin;
mod limits;
mod mount;
mod netlink;
pub mod passing;
mod plan;
mod process;
mod root;
mod scratch;
mod spawn;
mod spec;
mod support;
mod watch;
mod wire;

pub use failure::Step;
pub use handle::{Handle, RunError, SignalError, SocketError};
pub use inner::{Event, Events, Inner};
pub use limits::{Allowance, Excess, Quotas, Resources};
pub use spawn::{Sandbox, SpawnError, spawn};
pub use spec::{ExitStatus, IpFamily, ProcessId, ProcessSpec, ProcessStep, SandboxSpec, TunSpec};
pub use support::{Unsupported, check};
