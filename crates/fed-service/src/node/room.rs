//! How many connections destinations outside may have at a time: half of all are divided equally, so
//! that none can leave another without, and the rest is whoever's comes first.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most connections of one node, however many files it may have open: each holds some 100 KiB.
const MOST: usize = 4096;
/// Files that a node opens besides: sockets of mesh and bridges, logs, calls.
const OTHER_FILES: u64 = 768;
/// Files of one connection: its end inside, and the one outside.
const FILES: u64 = 2;

/// How many connections a process has room for that may have so many files open.
pub(super) fn most(files: u64) -> usize {
    let room = files.saturating_sub(OTHER_FILES) / FILES;
    usize::try_from(room).unwrap_or(MOST).clamp(1, MOST)
}

/// The room of one destination, for all its doors. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    own: Arc<Semaphore>,
    common: Arc<Semaphore>,
}

impl Room {
    /// Divides `most` connections among so many destinations, each of which has one at least.
    pub(super) fn divide(most: usize, destinations: usize) -> Vec<Self> {
        let each = (most / 2 / destinations.max(1)).max(1);
        let common = Arc::new(Semaphore::new(most.saturating_sub(each * destinations)));
        let room = || Self {
            own: Arc::new(Semaphore::new(each)),
            common: Arc::clone(&common),
        };
        std::iter::repeat_with(room).take(destinations).collect()
    }

    /// Waits for room for one more connection. Dropping what it returns frees it.
    pub(super) async fn enter(&self) -> OwnedSemaphorePermit {
        let permit = tokio::select! {
            biased;
            permit = Arc::clone(&self.own).acquire_owned() => permit,
            permit = Arc::clone(&self.common).acquire_owned() => permit,
        };
        permit.expect("nobody closes it")
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn files_are_left_for_the_rest() {
        assert_eq!(most(0), 1);
        assert_eq!(most(1024), 128);
        assert_eq!(most(1 << 20), MOST);
        assert_eq!(most(u64::MAX), MOST);
    }

    #[test]
    fn one_destination_may_have_what_is_common_and_not_what_is_anothers() {
        let rooms = Room::divide(8, 2);
        let enter = |of: usize| rooms[of].enter().now_or_never();
        let mut first: Vec<_> = std::iter::from_fn(|| enter(0)).collect();
        assert_eq!(first.len(), 6);
        let second: Vec<_> = std::iter::from_fn(|| enter(1)).collect();
        assert_eq!(second.len(), 2);
        first.pop();
        assert!(enter(1).is_some());
    }

    #[test]
    fn many_destinations_have_one_each() {
        let rooms = Room::divide(2, 5);
        let entered: Vec<_> = rooms
            .iter()
            .map(|room| room.enter().now_or_never())
            .collect();
        assert!(entered.iter().all(Option::is_some));
        assert!(rooms[0].enter().now_or_never().is_none());
    }
}
