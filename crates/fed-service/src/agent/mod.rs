//! The daemon of a data centre: answers operators, and ends what they leave behind.
//!
//! [`init`] prepares a host, [`invite`] lets one operator in, [`run`] is the daemon.

mod config;
mod federation;
mod registry;
mod replacement;
mod roster;
mod serve;
mod service;
mod setup;
mod workers;

pub use config::{AgentConfig, ConfigError, PoolConfig};
pub use roster::{Operator, Roster, RosterError};
pub use serve::{AgentError, run};
pub use setup::{InitReport, SetupError, drop_privileges, init, invite};
