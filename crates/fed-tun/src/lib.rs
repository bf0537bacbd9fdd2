//! Moves packets: a TUN device and a UDP socket on either side of a [`fed_mesh::Router`].
//!
//! The main type is [`Driver`], whose [`Driver::start`] starts the two threads that move packets,
//! one for each direction, and the task that commands them, and returns a [`Handle`] to it. What
//! goes where is decided by the router; this crate must not know of federations, sites or names,
//! and makes no device by itself.
//!
//! Each thread waits for packets, takes as many as wait (up to about 64 KiB), passes them through
//! the router under the lock of one peer at a time, and hands all on in as few system calls as the
//! kernel allows. docs/performance.md says where the time goes.

mod checksum;
mod driver;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod handle;
mod header;
mod join;
mod losses;
mod refusals;
#[cfg(test)]
mod segments;
mod split;
mod threads;
mod tun;
mod udp;

pub use driver::{Driver, Offloads};
pub use handle::{Closed, Handle, SetPeersFailed, Status, TunFailed};
pub use losses::Losses;
