//! The daemon of a data centre: answers operators, and ends what they leave behind.
//!
//! [`init`] prepares a host, [`invite`] lets one operator in, [`run`] is the daemon.

mod account;
mod audit;
mod config;
mod desk;
mod dialling;
mod draft;
mod federation;
mod inspector;
mod keys;
mod ledger;
mod policy;
mod registry;
mod replacement;
mod roster;
mod rpc;
mod serve;
mod service;
mod setup;
mod site;
mod workers;

pub use config::{AgentConfig, ConfigError, ConfigFile, PoolConfig};
pub use desk::{DeskError, Removed, remove_operator, rotate};
pub use draft::{Draft, DraftError, write};
pub use keys::{Announced, KeyError};
pub use policy::{Limits, OperatorTable};
pub use roster::{Operator, Roster, RosterError};
pub use serve::{AgentError, run};
pub use setup::{Fitness, Invited, SetupError, check, drop_privileges, init, invite};
