//! A member's end of a federation on one host: the mesh router outside, the sandbox inside.
//!
//! [`run`] is the whole of `fed node`. It lives in a folder of its own, answers its supervisor (an
//! agent, or the operator) over the control socket there, and ends when its lease lapses, when its
//! supervisor's pipe closes, or when it is told to. Its sandbox ends with it, whatever the cause.

mod bridge;
mod client;
mod failure;
mod gate;
pub(crate) mod log;
mod mesh;
mod news;
pub(crate) mod process;
mod protocol;
mod reach;
mod room;
mod scratch;
mod serve;
mod spec;
mod tasks;

pub(crate) use client::Death;
pub use client::{NodeClient, NodeError, NodeEvents, SpawnError, Supervision, spawn};
pub use failure::RunError;
#[cfg(feature = "fuzzing")]
pub(crate) use protocol::Request;
pub use protocol::{
    GatewayInfo, MeshReport, NodeEvent, PathReport, PeerReport, ProcessRequest, Ready, Report,
};
pub use serve::run;
pub use spec::{NodeFolder, NodeSpec};
