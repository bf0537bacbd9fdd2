//! The destinations to which datagrams do not go many at a time.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// After this long it is tried again: routes and devices change. A vain attempt costs one call. As
/// long as a path is taken to be narrow before it is tried wider.
pub(crate) const RETRY: Duration = Duration::from_secs(600);

/// So many are remembered. Where there are more, it is taken to be the same with all others.
pub(crate) const DESTINATIONS: usize = 16;

/// Where the kernel refuses trains whose datagrams it sends one by one: on the way there is
/// something, such as IPsec or a firewall, that passes none.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// Whether anything is remembered: all that is looked at for each train where nothing is.
    any: AtomicBool,
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// Each with the moment of its refusal, the oldest first.
    destinations: Vec<(IpAddr, Instant)>,
    /// When one more was refused than there was room for.
    all: Option<Instant>,
}

/// What a refusal is known to concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// This destination.
    One,
    /// All destinations: too many have been refused.
    All,
}

impl Refusals {
    /// Whether trains to `to` have been refused of late. Asks for the time only where there is
    /// something to remember.
    pub(crate) fn concern(&self, to: IpAddr, now: impl FnOnce() -> Instant) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut remembered = self.remembered();
        remembered.forget(now());
        let known = remembered.all.is_some() || remembered.holds(to);
        self.any.store(!remembered.is_empty(), Ordering::Relaxed);
        known
    }

    /// Whether trains to all destinations have been refused of late.
    pub(crate) fn concern_all(&self, now: Instant) -> bool {
        let mut remembered = self.remembered();
        remembered.forget(now);
        remembered.all.is_some()
    }

    /// Remembers that a train to `to` was refused.
    pub(crate) fn add(&self, to: IpAddr, now: Instant) -> Extent {
        let mut remembered = self.remembered();
        remembered.forget(now);
        self.any.store(true, Ordering::Relaxed);
        remembered.destinations.retain(|(known, _)| *known != to);
        if remembered.destinations.len() < DESTINATIONS {
            remembered.destinations.push((to, now));
            Extent::One
        } else {
            remembered.all = Some(now);
            Extent::All
        }
    }

    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    fn forget(&mut self, now: Instant) {
        let recent = |at: Instant| now.saturating_duration_since(at) < RETRY;
        self.destinations.retain(|(_, at)| recent(*at));
        self.all = self.all.filter(|at| recent(*at));
    }

    fn holds(&self, to: IpAddr) -> bool {
        self.destinations.iter().any(|(known, _)| *known == to)
    }

    fn is_empty(&self) -> bool {
        self.destinations.is_empty() && self.all.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> IpAddr {
        let last = u8::try_from(number).expect("a small number");
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_refusal_concerns_one_destination_for_a_while() {
        let (start, refusals) = (Instant::now(), Refusals::default());
        let concern = |number, now| refusals.concern(host(number), || now);
        let never_asked = || -> Instant { unreachable!("nothing is remembered") };
        assert!(!refusals.concern(host(1), never_asked));
        assert_eq!(refusals.add(host(1), start), Extent::One);
        let later = start + RETRY / 2;
        assert_eq!(refusals.add(host(2), later), Extent::One);
        let almost = start + RETRY - Duration::from_nanos(1);
        assert_eq!([1, 2, 3].map(|n| concern(n, almost)), [true, true, false]);
        assert_eq!([1, 2].map(|n| concern(n, start + RETRY)), [false, true]);
        // Again in vain.
        assert_eq!(refusals.add(host(1), start + RETRY), Extent::One);
        assert!(concern(1, start + RETRY));
        assert!(!refusals.concern_all(start + RETRY));
        let end = start + RETRY * 2;
        assert_eq!([1, 2].map(|n| concern(n, end)), [false, false]);
        assert!(!refusals.concern(host(1), never_asked));
    }

    #[test]
    fn more_refusals_than_are_remembered_concern_all_for_a_while() {
        let (start, refusals) = (Instant::now(), Refusals::default());
        // The same ones again are no more.
        for number in (0..DESTINATIONS).chain(0..DESTINATIONS) {
            assert_eq!(refusals.add(host(number), start), Extent::One);
        }
        assert!(!refusals.concern(host(DESTINATIONS), || start));
        assert!(!refusals.concern_all(start));
        let later = start + RETRY / 2;
        assert_eq!(refusals.add(host(DESTINATIONS), later), Extent::All);
        assert!(refusals.concern(host(100), || later));
        assert!(refusals.concern_all(later));
        assert!(refusals.concern(host(0), || start + RETRY));
        let end = later + RETRY;
        assert!(!refusals.concern_all(end));
        assert!(!refusals.concern(host(100), || end));
        assert!(refusals.remembered().is_empty());
    }
}
