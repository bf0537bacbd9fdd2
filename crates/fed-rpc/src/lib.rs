//! The control plane's wire: `fed.agent.v1` over gRPC, and who may speak on it.
//!
//! Both ends are known by their public keys, as in SSH and WireGuard: an [`Identity`] is a key and
//! a certificate that it signed itself, and a [`Fingerprint`] is what the other end pins. Whoever
//! is not admitted is refused in the TLS handshake, before any call.
//!
//! This crate moves messages and tells who sent them. It must not judge what is in them, hold
//! lists of who is enrolled, or log: callers hand in an [`Admission`](tls::Admission) and a hook
//! for failed handshakes. Its main functions are [`client::connect`] and [`server::incoming`].

pub mod client;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod invitation;
mod outgoing;
pub mod possession;
pub mod reverse;
pub mod server;
pub mod shares;
pub mod status;
pub mod tls;

/// Messages, client and server of the protobuf package `fed.agent.v1`.
///
/// `cargo xtask proto` makes this file from `proto/fed/agent/v1/agent.proto`: protox's file
/// descriptors go to `tonic_prost_build::configure()` with `build_client(true)`,
/// `build_server(true)` and `build_transport(false)`, then rustfmt. The transport stays out
/// because it would add an `AgentClient::connect` that pins nothing.
#[path = "generated/fed.agent.v1.rs"]
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod v1;

pub use identity::{Fingerprint, Identity};
pub use invitation::Invitation;
pub use outgoing::{connect, is_address};
pub use server::PeerIdentity;
