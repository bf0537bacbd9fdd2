//! What a router is told about its peers, and the constants of the mesh.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::frame::RouterId;
use crate::{Ipv6Prefix, PublicKey};

/// The largest inner packet that every path carries, in bytes.
///
/// 1280 is the least that IPv6 may be carried in (RFC 8200, section 5). A datagram adds 32 bytes of
/// WireGuard, 8 of UDP and 20 or 40 of IP, so it fits any path of 1360 bytes or more.
pub const MTU_MIN: usize = 1280;

/// The largest inner packet that any path carries, in bytes: what jumbo frames of 9000 bytes leave
/// over IPv4. The TUN device is given this MTU. A packet that is larger than its peer's path
/// carries is answered with an ICMPv6 Packet Too Big, never split.
pub const MTU_MAX: usize = 8940;

/// How often a peer is sent something when there is nothing to say: shorter than the 30 s after
/// which common NATs and firewalls forget a UDP flow.
pub const KEEPALIVE: Duration = Duration::from_secs(25);

/// The shortest keepalive accepted.
pub(crate) const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

/// After this long without an authenticated datagram a peer with a keepalive counts as silent:
/// two lost keepalives, and ten seconds for a handshake to be retried.
pub const SILENT_AFTER: Duration = Duration::from_secs(60);

/// Packets that wait for one peer's handshake at most; beyond it the oldest is dropped.
pub const QUEUE_PACKETS: usize = 256;

/// Handshake messages per second that are answered without question. Beyond it each source must
/// first prove, by a cookie, that it receives at the address it sends from.
pub const HANDSHAKES_PER_SECOND: u64 = 100;

/// Handshake messages per second that are answered of each source which has proved so. Beyond it
/// they are dropped: each costs a multiplication on the curve, and a thread decrypts all data.
pub const HANDSHAKES_PER_SOURCE: u32 = 20;

/// Sources of which that is counted at a time; while there are so many, no others are admitted.
pub(crate) const SOURCES_MAX: usize = 512;

/// Addresses of a peer that are tried at most; further ones are left out.
pub const CANDIDATES_MAX: usize = 8;

/// After this long without an answer (and two round trips more) a path is asked whether it still
/// works: longer than a busy peer takes to send something back, shorter than Dask's patience.
pub(crate) const DOUBT_AFTER: Duration = Duration::from_secs(1);

/// So long after the last data from a peer it is pinged: data that has ceased may not be over. It may
/// be on its way to where this router was, and who only receives does not notice.
pub(crate) const CEASED_AFTER: Duration = Duration::from_secs(2);

/// How often all paths are tried while there is none, or a better one may open. Both sides of a NAT
/// do this at once: what the first round opens, the second passes.
pub(crate) const SEEK_EVERY: Duration = Duration::from_millis(500);

/// So many rounds are that close together; then come [`UPGRADE_EVERY`] and, without a session, the
/// protocol's own retries.
pub(crate) const SEEK_ROUNDS: u32 = 10;

/// How often a better path is looked for in the long run: as often as keepalives, so that what one
/// side's attempt opens in its NAT is still open when the other's comes.
pub(crate) const UPGRADE_EVERY: Duration = KEEPALIVE;

/// After this long without an answer a router is no longer used as a relay.
pub(crate) const LOST_AFTER: Duration = Duration::from_secs(10);

/// After this long without an answer it is time for another way than UDP: relays have had their
/// turn by then (see [`DOUBT_AFTER`] and [`SEEK_EVERY`]), and there is no hurry before, since each
/// datagram that comes by the current path starts the count anew.
pub const UNANSWERED_MAX: Duration = Duration::from_secs(3);

/// After this long without a datagram it is, even where none was sent that must be answered: a
/// keepalive, and what it takes to find that it is not answered.
pub const UNHEARD_MAX: Duration = Duration::from_secs(35);

/// So long after a change of path a router does not follow its peer to another that is no better:
/// whoever sends from a new address each time moves nothing.
pub(crate) const FOLLOW_HOLD: Duration = Duration::from_secs(5);

/// So long the leading one of two routers does not return to a path that it left: long enough for
/// the other one to follow first, once its [`FOLLOW_HOLD`] is over.
pub(crate) const RETURN_HOLD: Duration = Duration::from_secs(10);

/// Handshakes with a peer, and changes of the path to it, are told no more often than this.
pub(crate) const TELL_EVERY: Duration = Duration::from_secs(1);

/// Relays that are tried at once.
pub(crate) const RELAYS_PER_ROUND: usize = 2;

/// What a router relays for each other one, in bytes per second: 1 Gbit/s.
pub const RELAY_RATE: u64 = 125_000_000;

/// What it may relay at once above that, in bytes.
pub const RELAY_BURST: u64 = RELAY_RATE / 4;

/// One peer, as the plan of a federation describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The identity of the peer.
    pub public_key: PublicKey,
    /// Where the peer may be reached, best first; [`CANDIDATES_MAX`] count. All are tried at once,
    /// and the first that answers is taken. Without any, the peer is expected to call, or is
    /// reached by way of a relay; a peer that moves is followed.
    pub endpoints: Vec<SocketAddr>,
    /// The inner addresses that belong to the peer: packets to them go to it, and it may send from
    /// them alone. Where prefixes of two peers nest, the longer wins in both directions.
    pub allowed_ips: Vec<Ipv6Prefix>,
    /// The longest silence towards the peer, at least one second; usually [`KEEPALIVE`]. With it
    /// the router keeps the session open by itself; without, it opens it again for a packet.
    pub keepalive: Option<Duration>,
}

/// Why a set of peers was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetPeersError {
    /// A peer bears the router's own key.
    #[error("peer {key} is this router itself: leave a router out of its own list of peers")]
    OwnKey {
        /// The key in question.
        key: PublicKey,
    },
    /// Two peers bear one key.
    #[error("peer {key} is listed twice: merge the two entries, or give each host its own key")]
    DuplicatePeer {
        /// The key in question.
        key: PublicKey,
    },
    /// Relays could not tell two routers apart.
    #[error(
        "the keys {first} and {second} begin with the same six bytes, which are all that relays \
         know of a router: make one of them anew"
    )]
    AlikeKeys {
        /// The router itself, or the peer that comes first in the list.
        first: PublicKey,
        /// The peer that comes later in the list.
        second: PublicKey,
    },
    /// Two peers claim one prefix.
    #[error(
        "allowed IPs overlap: {prefix} is claimed by peer {first} and by peer {second}; \
         give each prefix to one peer"
    )]
    OverlappingAllowedIps {
        /// The prefix in question.
        prefix: Ipv6Prefix,
        /// The peer that comes first in the list.
        first: PublicKey,
        /// The peer that comes later in the list.
        second: PublicKey,
    },
    /// A keepalive below one second would flood the path.
    #[error("peer {key} has a keepalive of {keepalive:?}: use at least 1s, or none")]
    KeepaliveTooShort {
        /// The peer in question.
        key: PublicKey,
        /// What was asked for.
        keepalive: Duration,
    },
}

/// Checks `peers` for a router whose own key is `own`.
pub(crate) fn check(own: PublicKey, peers: &[PeerConfig]) -> Result<(), SetPeersError> {
    let mut keys = BTreeMap::from([(RouterId::from(own), own)]);
    let mut owners: BTreeMap<Ipv6Prefix, PublicKey> = BTreeMap::new();
    for peer in peers {
        let key = peer.public_key;
        if key == own {
            return Err(SetPeersError::OwnKey { key });
        }
        match keys.insert(RouterId::from(key), key) {
            Some(first) if first == key => return Err(SetPeersError::DuplicatePeer { key }),
            Some(first) => return Err(SetPeersError::AlikeKeys { first, second: key }),
            None => {}
        }
        if let Some(keepalive) = peer.keepalive.filter(|k| *k < KEEPALIVE_MIN) {
            return Err(SetPeersError::KeepaliveTooShort { key, keepalive });
        }
        for prefix in &peer.allowed_ips {
            let first = *owners.entry(*prefix).or_insert(key);
            if first != key {
                return Err(SetPeersError::OverlappingAllowedIps {
                    prefix: *prefix,
                    first,
                    second: key,
                });
            }
        }
    }
    Ok(())
}
