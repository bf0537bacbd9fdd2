//! Which bridges a node has opened, tries to open, and when it may try again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use fed_core::MemberId;
use tokio::time::Instant;

/// How long after a vain attempt the next one is made. A bridge that ends sooner was one, too.
const RETRY: Duration = Duration::from_secs(15);

/// How long a bridge has to bring a peer back that is cut off. After that it may be dead and not
/// know it yet, as where a firewall has forgotten the connection: another is opened beside it.
const TRIAL: Duration = Duration::from_secs(8);

/// A bridge that stands, or seems to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Standing<T> {
    /// Where it begins, on this host's loopback.
    pub(super) address: SocketAddr,
    /// By which it is ended.
    pub(super) task: T,
    since: Instant,
}

#[derive(Debug)]
enum Line<T> {
    /// Being opened. The one before is kept until then.
    Opening(Option<Standing<T>>),
    Open(Standing<T>),
    /// Until when not to try again.
    Failed(Instant),
}

/// One bridge to each member at most, and the one that takes its place.
#[derive(Debug)]
pub(super) struct Lines<T>(BTreeMap<MemberId, Line<T>>);

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Lines<T> {
    /// The loopback addresses of the bridges that stand.
    pub(super) fn addresses(&self) -> BTreeMap<MemberId, SocketAddr> {
        let standing = self.0.iter().filter_map(|(member, line)| match line {
            Line::Open(bridge) | Line::Opening(Some(bridge)) => Some((*member, bridge.address)),
            Line::Opening(None) | Line::Failed(_) => None,
        });
        standing.collect()
    }

    /// Whether there is neither a bridge to a member nor an attempt.
    #[cfg(test)]
    pub(super) fn has_failed(&self, member: MemberId) -> bool {
        matches!(self.0.get(&member), Some(Line::Failed(_)))
    }

    /// Begins an attempt to reach a member that is cut off; whether it is time to.
    pub(super) fn begin(&mut self, member: MemberId, now: Instant) -> bool {
        let due = match self.0.get(&member) {
            None => true,
            Some(Line::Opening(_)) => false,
            Some(Line::Open(bridge)) => bridge.since + TRIAL <= now,
            Some(Line::Failed(until)) => *until <= now,
        };
        if due {
            let before = match self.0.remove(&member) {
                Some(Line::Open(bridge)) => Some(bridge),
                Some(Line::Opening(_) | Line::Failed(_)) | None => None,
            };
            self.0.insert(member, Line::Opening(before));
        }
        due
    }

    /// The attempt has succeeded. Returns what is to end the bridge before.
    pub(super) fn opened(
        &mut self,
        member: MemberId,
        address: SocketAddr,
        task: T,
        now: Instant,
    ) -> Option<T> {
        let bridge = Standing {
            address,
            task,
            since: now,
        };
        match self.0.insert(member, Line::Open(bridge)) {
            Some(Line::Open(before) | Line::Opening(Some(before))) => Some(before.task),
            Some(Line::Opening(None) | Line::Failed(_)) | None => None,
        }
    }

    /// The attempt was in vain; the bridge before has another trial.
    pub(super) fn refused(&mut self, member: MemberId, now: Instant) {
        let line = match self.0.remove(&member) {
            Some(Line::Open(before) | Line::Opening(Some(before))) => Line::Open(Standing {
                since: now,
                ..before
            }),
            Some(Line::Opening(None) | Line::Failed(_)) | None => Line::Failed(now + RETRY),
        };
        self.0.insert(member, line);
    }

    /// The bridge from this address has ended.
    pub(super) fn ended(&mut self, member: MemberId, address: SocketAddr, now: Instant) {
        match self.0.get_mut(&member) {
            Some(Line::Opening(before))
                if before
                    .as_ref()
                    .is_some_and(|bridge| bridge.address == address) =>
            {
                *before = None;
            }
            Some(line) => {
                if let Line::Open(bridge) = line
                    && bridge.address == address
                {
                    let worked = now.saturating_duration_since(bridge.since) >= RETRY;
                    *line = Line::Failed(if worked { now } else { now + RETRY });
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: MemberId = MemberId::OPERATOR;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// A bridge, and when it was opened.
    fn opened() -> (Lines<&'static str>, Instant) {
        let now = Instant::now();
        let mut lines = Lines::default();
        assert!(lines.begin(MEMBER, now));
        assert!(!lines.begin(MEMBER, now), "one attempt at a time");
        assert_eq!(lines.addresses(), BTreeMap::new());
        assert_eq!(lines.opened(MEMBER, at(1), "first", now), None);
        assert_eq!(lines.addresses(), BTreeMap::from([(MEMBER, at(1))]));
        (lines, now)
    }

    #[test]
    fn a_bridge_that_worked_and_ended_is_opened_again_at_once() {
        let (mut lines, now) = opened();
        lines.ended(MEMBER, at(1), now + RETRY);
        assert_eq!(lines.addresses(), BTreeMap::new());
        assert!(lines.begin(MEMBER, now + RETRY));
    }

    #[test]
    fn one_that_ends_soon_or_cannot_be_opened_is_not_tried_at_once() {
        let (mut lines, mut now) = opened();
        lines.ended(MEMBER, at(1), now);
        for _ in 0..3 {
            assert!(!lines.begin(MEMBER, now + RETRY / 2));
            now += RETRY;
            assert!(lines.begin(MEMBER, now));
            lines.refused(MEMBER, now);
        }
    }

    #[test]
    fn one_that_may_be_dead_is_kept_until_another_stands() {
        let (mut lines, now) = opened();
        assert!(!lines.begin(MEMBER, now + TRIAL / 2));
        let later = now + TRIAL;
        assert!(lines.begin(MEMBER, later));
        assert_eq!(lines.addresses(), BTreeMap::from([(MEMBER, at(1))]));
        // In vain: it may have been alive.
        lines.refused(MEMBER, later);
        assert!(!lines.begin(MEMBER, later + TRIAL / 2));
        assert!(lines.begin(MEMBER, later + TRIAL));
        let opened = lines.opened(MEMBER, at(2), "second", later + TRIAL);
        assert_eq!(opened, Some("first"));
        // The end of the first says nothing about the second.
        lines.ended(MEMBER, at(1), later + TRIAL);
        assert_eq!(lines.addresses(), BTreeMap::from([(MEMBER, at(2))]));
    }

    #[test]
    fn one_that_ends_while_another_is_opened_is_forgotten() {
        let (mut lines, now) = opened();
        assert!(lines.begin(MEMBER, now + TRIAL));
        lines.ended(MEMBER, at(1), now + TRIAL);
        assert_eq!(lines.addresses(), BTreeMap::new());
        lines.refused(MEMBER, now + TRIAL);
        assert!(!lines.begin(MEMBER, now + TRIAL + RETRY / 2));
        assert!(lines.begin(MEMBER, now + TRIAL + RETRY));
    }
}
