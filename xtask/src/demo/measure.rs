//! What a calculation costs the WAN, as the emulator counts it.

use std::time::Duration;

use anyhow::{Context, Result};
use fed_testkit::Lab;

use super::OPERATOR;

/// What went over all links while something ran.
pub(super) struct Traffic {
    /// Bytes of Ethernet frames, over all links and directions.
    pub(super) bytes: u64,
    /// Time that the busiest link to the operator spent sending.
    pub(super) busy: Duration,
}

/// Runs `action` and tells what the WAN carried meanwhile.
///
/// # Errors
/// If the action fails, or the emulator has stopped.
pub(super) fn traffic<T>(lab: &Lab, action: impl FnOnce() -> Result<T>) -> Result<(T, Traffic)> {
    let wan = lab.wan();
    wan.reset().context("cannot reset the WAN's counters")?;
    let value = action()?;
    let counters = wan.counters().context("cannot read the WAN's counters")?;
    let inbound = counters.links.iter().filter(|link| link.to == OPERATOR);
    let busy = inbound.map(|link| link.counters.busy).max();
    Ok((
        value,
        Traffic {
            bytes: counters.total_bytes(),
            busy: busy.unwrap_or_default(),
        },
    ))
}
