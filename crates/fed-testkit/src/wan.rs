//! The WAN emulator: Ethernet frames between hosts, with delay, rate, loss and cuts.
//!
//! [`Switch`] is the core: pure, on virtual time. [`Wan`] moves real frames through it in a thread
//! of its own, between TAP devices.

mod counters;
mod cut;
mod driver;
mod link;
mod switch;

pub use counters::Counters;
pub use cut::Cut;
pub use driver::{LinkCounters, Wan, WanCounters, WanError};
pub use link::LinkSpec;
pub use switch::{Delivery, Switch};
