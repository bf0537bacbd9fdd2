//! Keeps what others can provoke at will from filling a log.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same thing is told once in this time, with the number of times that it was not.
const QUIET: Duration = Duration::from_secs(10);

/// When something was told last, and how often it was not since.
#[derive(Debug, Default)]
pub(crate) struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    /// Notes that it has happened again. If it is to be told, returns how often it was not before.
    pub(crate) fn note(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, untold) = &mut *state;
        if told.is_some_and(|told| now < told + QUIET) {
            *untold += 1;
            return None;
        }
        *told = Some(now);
        Some(std::mem::take(untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_told_with_its_number() {
        let (quiet, now) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.note(now), Some(0));
        assert_eq!((quiet.note(now), quiet.note(now)), (None, None));
        let later = now + QUIET;
        assert_eq!((quiet.note(later), quiet.note(later)), (Some(2), None));
    }
}
