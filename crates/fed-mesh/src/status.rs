//! Counters.

use std::net::SocketAddr;
use std::time::Duration;

use crate::{ByPath, Ipv6Prefix, Path, PublicKey, Traffic, UNANSWERED_MAX, UNHEARD_MAX};

/// Why a packet or a datagram went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// From the TUN: not one whole IPv6 packet.
    MalformedInner,
    /// From the TUN: larger than the path to the peer carries; the sender was told.
    TooBig,
    /// From the TUN: no peer owns the destination.
    NoRoute,
    /// From the TUN: the peer has not been heard, and there is neither an endpoint nor a relay.
    NoEndpoint,
    /// To the network: the relay on the path is not reached itself.
    NoRelay,
    /// From the TUN: too many packets waited for the handshake; the oldest was dropped.
    QueueFull,
    /// From the TUN: the handshake that the packet waited for was given up.
    HandshakeGivenUp,
    /// From the network: not a WireGuard message, or its first MAC is not meant for this router, or
    /// sent from port 0, which cannot be answered.
    MalformedOuter,
    /// From the network: for no session here, or from a key that is no peer.
    UnknownPeer,
    /// From the network: too many handshakes; the sender was asked for a cookie, or has sent more
    /// than [`crate::HANDSHAKES_PER_SOURCE`] with one.
    UnderLoad,
    /// From the network: a handshake message or cookie that does not fit, or was seen before.
    HandshakeRefused,
    /// From the network: data for a session that is over, or that does not authenticate.
    Undecryptable,
    /// From the network: data seen before, or too late to tell.
    Replayed,
    /// From the network: authentic, but not one whole IPv6 packet inside.
    MalformedDecrypted,
    /// From the network: authentic, but sent from an inner address that is not the peer's.
    SourceNotAllowed,
    /// From the network: to be relayed, but not from or not to a router that is reached straight.
    RelayRefused,
    /// From the network: to be relayed beyond [`crate::RELAY_RATE`].
    RelayBusy,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [Self; 17] = [
        Self::MalformedInner,
        Self::TooBig,
        Self::NoRoute,
        Self::NoEndpoint,
        Self::NoRelay,
        Self::QueueFull,
        Self::HandshakeGivenUp,
        Self::MalformedOuter,
        Self::UnknownPeer,
        Self::UnderLoad,
        Self::HandshakeRefused,
        Self::Undecryptable,
        Self::Replayed,
        Self::MalformedDecrypted,
        Self::SourceNotAllowed,
        Self::RelayRefused,
        Self::RelayBusy,
    ];

    /// Its name in counters, in lower case with hyphens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MalformedInner => "malformed-inner",
            Self::TooBig => "too-big",
            Self::NoRoute => "no-route",
            Self::NoEndpoint => "no-endpoint",
            Self::NoRelay => "no-relay",
            Self::QueueFull => "queue-full",
            Self::HandshakeGivenUp => "handshake-given-up",
            Self::MalformedOuter => "malformed-outer",
            Self::UnknownPeer => "unknown-peer",
            Self::UnderLoad => "under-load",
            Self::HandshakeRefused => "handshake-refused",
            Self::Undecryptable => "undecryptable",
            Self::Replayed => "replayed",
            Self::MalformedDecrypted => "malformed-decrypted",
            Self::SourceNotAllowed => "source-not-allowed",
            Self::RelayRefused => "relay-refused",
            Self::RelayBusy => "relay-busy",
        }
    }
}

/// How many packets or datagrams were dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// The number dropped for `reason`.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// The number dropped for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .into_iter()
            .map(|reason| (reason, self.get(reason)))
            .filter(|(_, count)| *count > 0)
    }

    pub(crate) fn add(&mut self, reason: DropReason, count: u64) {
        self.0[reason as usize] += count;
    }
}

/// One peer, as the router sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The identity of the peer.
    pub public_key: PublicKey,
    /// Where the peer was last heard, if it is reached straight: what it looks like from here.
    /// Before anything has come from it, the first of the addresses that are tried.
    pub endpoint: Option<SocketAddr>,
    /// The path to the peer, once something has come by it.
    pub path: Option<Path>,
    /// The smoothed round-trip time of that path, once it has been measured.
    pub rtt: Option<Duration>,
    /// The largest inner packet that the path is known to carry, in bytes.
    pub path_mtu: usize,
    /// The inner addresses that belong to the peer.
    pub allowed_ips: Vec<Ipv6Prefix>,
    /// Whether packets can be sent without a handshake.
    pub connected: bool,
    /// Datagrams to and from the peer, by the kind of path.
    pub by_path: ByPath,
    /// Inner packets sent to the peer; packets that wait are not counted yet.
    pub inner_sent: Traffic,
    /// Inner packets delivered from the peer.
    pub inner_received: Traffic,
    /// Datagrams that this router has relayed for the peer, which sent them.
    pub relayed: Traffic,
    /// What was dropped on the way to or from the peer.
    pub drops: Drops,
    /// Packets that wait for a handshake now.
    pub queued: usize,
    /// Time since the last handshake was completed.
    pub last_handshake: Option<Duration>,
    /// Time since the last authentic datagram.
    pub last_heard: Option<Duration>,
    /// Time since something was sent by the path that nothing has come back by it for.
    pub unanswered: Option<Duration>,
    /// Time since the path was found not to carry packets of [`crate::MTU_MIN`] bytes.
    pub narrow: Option<Duration>,
}

impl PeerStatus {
    /// UDP payload sent to the peer, by whatever path, in bytes.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.by_path.iter().map(|(_, went)| went.sent.bytes).sum()
    }

    /// UDP payload of authentic datagrams from the peer, by whatever path, in bytes.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        let paths = self.by_path.iter();
        paths.map(|(_, went)| went.received.bytes).sum()
    }

    /// Handshakes completed.
    #[must_use]
    pub fn handshakes(&self) -> u64 {
        self.by_path.iter().map(|(_, went)| went.handshakes).sum()
    }

    /// Whether the peer is reached neither straight nor by way of a relay, or not with packets as
    /// large as all are to carry, so that another way than UDP should be opened to it and told as an endpoint on this host's loopback.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        let for_longer = |since: Option<Duration>, most| since.is_some_and(|since| since >= most);
        self.last_heard.is_none()
            || for_longer(self.last_heard, UNHEARD_MAX)
            || for_longer(self.unanswered, UNANSWERED_MAX)
            || for_longer(self.narrow, UNANSWERED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let mut drops = Drops::default();
            drops.add(reason, 2);
            assert_eq!(drops.iter().collect::<Vec<_>>(), [(reason, 2)]);
            assert_eq!(drops.total(), 2);
        }
        let names: std::collections::BTreeSet<_> = DropReason::ALL.map(DropReason::name).into();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
