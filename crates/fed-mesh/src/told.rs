//! Which path to a peer its owner has been told of.

use std::time::Instant;

use crate::Path;
use crate::config::TELL_EVERY;

/// What has been told of the path to one peer, and what is still to be told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    path: Option<Path>,
    /// When a change was told last.
    at: Option<Instant>,
    /// Whether the path that is taken is another one by now.
    owed: bool,
}

impl Told {
    /// Notes the path that is taken. If it is to be told now, returns the one that was told before
    /// it, which is none for the first.
    pub(crate) fn take(&mut self, path: Path, now: Instant) -> Option<Option<Path>> {
        self.owed = self.path != Some(path);
        if !self.owed || self.next().is_some_and(|next| now < next) {
            return None;
        }
        self.owed = false;
        let before = self.path.replace(path);
        // A first path is no change: the peer may well move at once.
        self.at = before.map(|_| now);
        Some(before)
    }

    /// When [`Self::take`] is to be called again with the path that is taken then.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next().filter(|_| self.owed)
    }

    fn next(&self) -> Option<Instant> {
        self.at.map(|at| at + TELL_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn path(port: u16) -> Path {
        Path::Udp(SocketAddr::from(([192, 0, 2, 1], port)))
    }

    #[test]
    fn changes_are_told_once_a_second_and_the_last_one_in_any_case() {
        let start = Instant::now();
        let mut told = Told::default();
        assert_eq!(told.take(path(1), start), Some(None));
        assert_eq!(told.take(path(2), start), Some(Some(path(1))));
        for port in 3..100 {
            assert_eq!(told.take(path(port), start + TELL_EVERY / 2), None);
        }
        let due = start + TELL_EVERY;
        assert_eq!(told.due(), Some(due));
        assert_eq!(told.take(path(99), due), Some(Some(path(2))));
        assert_eq!(told.due(), None);
        // A second after that, and not after the change.
        assert_eq!(told.take(path(1), due), None);
        assert_eq!(told.due(), Some(due + TELL_EVERY));
    }

    #[test]
    fn who_is_back_in_time_has_not_moved() {
        let start = Instant::now();
        let mut told = Told::default();
        for port in [1, 2, 3, 2] {
            told.take(path(port), start);
        }
        assert_eq!(told.due(), None);
        assert_eq!(told.take(path(2), start + 2 * TELL_EVERY), None);
    }
}
