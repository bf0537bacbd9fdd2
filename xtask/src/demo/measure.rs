//! What a calculation costs the WAN, as the emulator counts it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use fed_testkit::Lab;
use fed_testkit::wan::{Wan, WanError};

use super::OPERATOR;

/// How often the links are looked at.
const SAMPLE: Duration = Duration::from_millis(2);

/// What went over all links while something ran.
pub(super) struct Traffic {
    /// Bytes of Ethernet frames, over all links and directions.
    pub(super) bytes: u64,
    /// Time that the busiest link to the operator spent sending.
    busy: Duration,
    /// Time from the first to the last byte towards the operator, pauses included.
    span: Duration,
}

impl Traffic {
    /// Share of the time from first to last byte in which the busiest link to the operator was
    /// sending, 0 to 1.
    pub(super) fn link_use(&self) -> f64 {
        // A span is known to a sample's length.
        self.busy.as_secs_f64() / self.span.max(self.busy).max(SAMPLE).as_secs_f64()
    }
}

/// Runs `action` and tells what the WAN carried meanwhile.
///
/// # Errors
/// If the action fails, or the emulator has stopped.
pub(super) fn traffic<T>(lab: &Lab, action: impl FnOnce() -> Result<T>) -> Result<(T, Traffic)> {
    let wan = lab.wan();
    wan.reset().context("cannot reset the WAN's counters")?;
    let done = AtomicBool::new(false);
    let (value, span) = std::thread::scope(|scope| {
        let sampler = scope.spawn(|| span(wan, &done));
        let value = action();
        done.store(true, Ordering::Relaxed);
        (value, sampler.join().expect("the sampler does not panic"))
    });
    let (value, span) = (value?, span.context("cannot watch the WAN")?);
    let counters = wan.counters().context("cannot read the WAN's counters")?;
    let inbound = counters.links.iter().filter(|link| link.to == OPERATOR);
    let busy = inbound.map(|link| link.counters.busy).max();
    let traffic = Traffic {
        bytes: counters.total_bytes(),
        busy: busy.unwrap_or_default(),
        span,
    };
    Ok((value, traffic))
}

/// Samples the links to the operator until `done`: time from their first to their last byte.
fn span(wan: &Wan, done: &AtomicBool) -> Result<Duration, WanError> {
    let mut known = 0;
    let mut first = None;
    let mut last = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let now = wan.counters()?;
        let inbound = now.links.iter().filter(|link| link.to == OPERATOR);
        let bytes = inbound.map(|link| link.counters.bytes).sum();
        if bytes > known {
            known = bytes;
            last = now.elapsed;
            first.get_or_insert(now.elapsed);
        }
        std::thread::sleep(SAMPLE);
    }
    Ok(first.map_or(Duration::ZERO, |first| last - first))
}
