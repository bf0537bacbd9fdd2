//! The reference model: which kind of path two routers must come to have.

use std::collections::BTreeSet;

/// What stands between a router and the network (terms of RFC 4787).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing.
    Open,
    /// A firewall that lets answers in.
    Firewall,
    /// A NAT with one port for all, where all may send to.
    FullCone,
    /// A NAT with one port for all, that lets answers in.
    Restricted,
    /// A NAT with a port for each destination, that lets answers in.
    Symmetric,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Open,
        Self::Firewall,
        Self::FullCone,
        Self::Restricted,
        Self::Symmetric,
    ];

    /// Whether others know where it is before they have heard from it.
    pub(crate) fn has_address(self) -> bool {
        matches!(self, Self::Open | Self::Firewall)
    }

    fn lets_all_in(self) -> bool {
        matches!(self, Self::Open | Self::FullCone)
    }
}

/// What two routers must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Direct,
    Relayed,
    Nothing,
}

/// The state of the network.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) kinds: Vec<Kind>,
    /// Pairs between which nothing passes, the smaller number first.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// Routers whose uplink is down.
    pub(crate) down: BTreeSet<usize>,
}

impl Model {
    /// Whether datagrams pass between two routers at all.
    pub(crate) fn passes(&self, one: usize, other: usize) -> bool {
        !self.cut.contains(&(one.min(other), one.max(other)))
            && !self.down.contains(&one)
            && !self.down.contains(&other)
    }

    fn direct(&self, one: usize, other: usize) -> bool {
        let kinds = [self.kinds[one], self.kinds[other]];
        let reachable = kinds.iter().any(|kind| kind.lets_all_in())
            || kinds.iter().all(|kind| *kind != Kind::Symmetric);
        reachable && self.passes(one, other)
    }

    pub(crate) fn expected(&self, one: usize, other: usize) -> Expected {
        let relays = |relay: usize| {
            relay != one && relay != other && self.direct(one, relay) && self.direct(relay, other)
        };
        if self.direct(one, other) {
            Expected::Direct
        } else if (0..self.kinds.len()).any(relays) {
            Expected::Relayed
        } else {
            Expected::Nothing
        }
    }
}
