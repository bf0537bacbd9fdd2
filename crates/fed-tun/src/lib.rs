//! Moves packets: a TUN device and a UDP socket on either side of a [`fed_mesh::Router`].
//!
//! The main type is [`Driver`], whose [`Driver::start`] spawns the one task that owns the router,
//! the device and the socket, and returns a [`Handle`] to it. What goes where is decided by the
//! router; this crate must not know of federations, sites or names, and makes no device by itself.

mod driver;
mod handle;
mod path;

pub use driver::Driver;
pub use handle::{Closed, Handle, SetPeersFailed, Status, TunFailed};
pub use path::Losses;
