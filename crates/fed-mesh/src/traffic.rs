//! What went to and from a peer, counted.

use crate::PathKind;

/// Packets or datagrams, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number of packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// What went by one kind of path: UDP payload, handshakes, keepalives and the frames of relays
/// included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathTraffic {
    /// Datagrams sent to the peer.
    pub sent: Traffic,
    /// Authentic datagrams from the peer.
    pub received: Traffic,
    /// Handshakes that were completed by a datagram of this path.
    pub handshakes: u64,
}

/// What went to and from a peer, by the kind of path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByPath([PathTraffic; PathKind::ALL.len()]);

impl ByPath {
    /// What went by this kind of path.
    #[must_use]
    pub fn get(&self, kind: PathKind) -> PathTraffic {
        self.0[kind as usize]
    }

    /// Each kind of path, with what went by it.
    pub fn iter(&self) -> impl Iterator<Item = (PathKind, PathTraffic)> + '_ {
        PathKind::ALL.into_iter().map(|kind| (kind, self.get(kind)))
    }

    pub(crate) fn of(&mut self, kind: PathKind) -> &mut PathTraffic {
        &mut self.0[kind as usize]
    }
}
