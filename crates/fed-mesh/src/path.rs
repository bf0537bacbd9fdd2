//! The ways by which datagrams of a peer travel.

use std::fmt;
use std::net::SocketAddr;

use crate::PublicKey;

/// One way between this router and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// UDP, straight to this address.
    Udp(SocketAddr),
    /// By way of another router, which forwards what it cannot read.
    Relay(PublicKey),
}

impl Path {
    /// Where the peer is seen, if the path is straight.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Udp(address) => Some(*address),
            Self::Relay(_) => None,
        }
    }

    /// Whether no other router stands in between.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.address().is_some()
    }

    /// What the path adds to a datagram before UDP does, in bytes.
    #[must_use]
    pub fn overhead(&self) -> usize {
        match self {
            Self::Udp(_) => 0,
            Self::Relay(_) => crate::frame::HEADER,
        }
    }

    /// What kind of path it is. Of two that work, the one of the greater kind is taken.
    #[must_use]
    pub fn kind(&self) -> PathKind {
        match self {
            Self::Relay(_) => PathKind::Relayed,
            Self::Udp(address) if address.ip().is_loopback() => PathKind::Bridged,
            Self::Udp(_) => PathKind::Direct,
        }
    }

    /// Whether no other path could be better.
    pub(crate) fn is_best(&self) -> bool {
        self.kind() == PathKind::Direct
    }
}

/// The kinds of paths, the best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathKind {
    /// By way of another router.
    Relayed,
    /// By way of something at an address on this host's own loopback, which carries datagrams in
    /// another way than UDP does.
    Bridged,
    /// UDP, straight to the peer.
    Direct,
}

impl PathKind {
    /// All kinds, in their order.
    pub const ALL: [Self; 3] = [Self::Relayed, Self::Bridged, Self::Direct];
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "direct, {address}"),
            Self::Relay(via) => write!(f, "relayed via {via}"),
        }
    }
}

/// One form for each address: a dual-stack socket shows IPv4 senders as mapped IPv6.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}
