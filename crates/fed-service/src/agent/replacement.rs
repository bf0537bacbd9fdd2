//! When workers that ended by themselves are replaced.

use std::collections::BTreeMap;
use std::time::Duration;

use fed_core::PoolName;
use tokio::time::Instant;

/// Waits before a pool gets new workers, longer each time that they die early.
#[derive(Debug, Default)]
pub(super) struct Replacements(BTreeMap<PoolName, Wait>);

#[derive(Debug)]
struct Wait {
    /// When the pool gets new workers, unless it has them.
    due: Option<Instant>,
    /// When the last were due.
    last: Instant,
    delay: Duration,
}

impl Replacements {
    /// How long the first worker of a pool that dies is waited for.
    pub(super) const FIRST: Duration = Duration::from_secs(1);
    /// Longest wait.
    pub(super) const LONGEST: Duration = Duration::from_secs(30);
    /// Workers that lived this long after they were due did not die of their start.
    const SETTLED: Duration = Duration::from_secs(60);

    /// Notes that a pool has lost a worker; returns how long it waits for the next.
    pub(super) fn lost(&mut self, pool: &PoolName, now: Instant) -> Duration {
        let wait = self.0.entry(pool.clone()).or_insert(Wait {
            due: None,
            last: now,
            delay: Duration::ZERO,
        });
        if let Some(due) = wait.due {
            return due.saturating_duration_since(now);
        }
        wait.delay = if wait.delay.is_zero() || now > wait.last + Self::SETTLED {
            Self::FIRST
        } else {
            (2 * wait.delay).min(Self::LONGEST)
        };
        wait.last = now + wait.delay;
        wait.due = Some(wait.last);
        wait.delay
    }

    /// When the next pool is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|wait| wait.due).min()
    }

    /// Takes the pools that are due.
    pub(super) fn take(&mut self, now: Instant) -> Vec<PoolName> {
        let due = |wait: &Wait| wait.due.is_some_and(|due| due <= now);
        let mut taken = Vec::new();
        for (pool, wait) in &mut self.0 {
            if due(wait) {
                wait.due = None;
                taken.push(pool.clone());
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> PoolName {
        "ecmwf".parse().unwrap()
    }

    #[test]
    fn workers_lost_together_are_replaced_together() {
        let (mut waits, now) = (Replacements::default(), Instant::now());
        assert_eq!(waits.next(), None);
        assert_eq!(waits.lost(&pool(), now), Replacements::FIRST);
        let half = Replacements::FIRST / 2;
        assert_eq!(waits.lost(&pool(), now + half), half);
        assert_eq!(waits.next(), Some(now + Replacements::FIRST));
        assert!(waits.take(now + half).is_empty());
        assert_eq!(waits.take(now + Replacements::FIRST), [pool()]);
        assert_eq!(waits.next(), None);
    }

    #[test]
    fn the_wait_grows_while_workers_die_at_their_start_and_no_longer() {
        let mut waits = Replacements::default();
        let mut now = Instant::now();
        let mut delays = Vec::new();
        for _ in 0..8 {
            let delay = waits.lost(&pool(), now);
            delays.push(delay.as_secs());
            now += delay;
            assert_eq!(waits.take(now), [pool()]);
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30, 30]);
        now += Replacements::SETTLED + Duration::from_secs(1);
        assert_eq!(waits.lost(&pool(), now), Replacements::FIRST);
    }
}
