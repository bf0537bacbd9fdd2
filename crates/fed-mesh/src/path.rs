//! The ways by which datagrams of a peer travel.

use std::fmt;
use std::net::SocketAddr;

use crate::PublicKey;

const BEST: u8 = 2;

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

    /// Of two paths that work, the one with the higher rank is taken. At an address on this host's
    /// own loopback there is something that carries datagrams in another way than UDP does.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Self::Relay(_) => 0,
            Self::Udp(address) if address.ip().is_loopback() => 1,
            Self::Udp(_) => BEST,
        }
    }

    /// Whether no other path could be better.
    pub(crate) fn is_best(&self) -> bool {
        self.rank() == BEST
    }
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
