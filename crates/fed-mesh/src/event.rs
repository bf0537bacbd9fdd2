//! What a router tells besides packets.

use std::time::Duration;

use crate::{Path, PublicKey};

/// Something an operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A handshake is complete: both ends hold the keys of a new session. Of several in one second
    /// with one peer the first is told; [`crate::PeerStatus::handshakes`] counts all.
    HandshakeCompleted {
        /// With whom.
        peer: PublicKey,
        /// The path by which it was completed.
        path: Path,
    },
    /// Another path to a peer is taken: it moved, a better path opened, or the one taken so far no
    /// longer works. Told at most once a second of each peer; what is told last is so.
    PathChanged {
        /// To whom.
        peer: PublicKey,
        /// The path that was told of before.
        from: Option<Path>,
        /// The path from now on.
        to: Path,
    },
    /// The path to a peer carries larger packets than before, or no longer such large ones.
    PathMtuChanged {
        /// The peer.
        peer: PublicKey,
        /// The largest inner packet from now on, in bytes.
        mtu: usize,
    },
    /// The path to a peer does not even carry packets of [`crate::MTU_MIN`] bytes, while small ones
    /// pass. Any other that does is taken instead; until then large packets are lost.
    PathNarrow {
        /// The peer.
        peer: PublicKey,
        /// The path.
        path: Path,
    },
    /// A peer with a keepalive has not been heard for [`crate::SILENT_AFTER`].
    PeerSilent {
        /// Who.
        peer: PublicKey,
        /// How long ago it was last heard; if never, how long ago it was added.
        silence: Duration,
    },
    /// A silent peer was heard again.
    PeerReturned {
        /// Who.
        peer: PublicKey,
        /// How long it had not been heard.
        silence: Duration,
    },
}

/// Why a router wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimeoutReason {
    /// A session looks after its handshake: retry, renewal, expiry.
    Session,
    /// A keepalive is due.
    Keepalive,
    /// A peer is about to count as silent.
    Silence,
    /// Paths to a peer are to be tried, or the width of the one taken.
    Path,
}
