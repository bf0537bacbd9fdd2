//! What a NAT or firewall does to datagrams, and forgets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::model::Kind;

/// The port of every router on its own host.
const PORT: u16 = 51_820;

/// After so long without a datagram outwards a flow is forgotten: more than the keepalive of 25 s,
/// less than RFC 4787 asks for.
const FORGETS: Duration = Duration::from_secs(40);

/// The gate of one router.
#[derive(Debug)]
pub(crate) struct Gate {
    kind: Kind,
    host: Ipv4Addr,
    next_port: u16,
    /// The outer port for each destination, or for all (`None`).
    ports: BTreeMap<Option<SocketAddr>, (u16, Duration)>,
    /// Where datagrams went from which outer port, and when last.
    flows: BTreeMap<(u16, SocketAddr), Duration>,
}

impl Gate {
    pub(crate) fn new(kind: Kind, host: Ipv4Addr) -> Self {
        Self {
            kind,
            host,
            next_port: 1024,
            ports: BTreeMap::new(),
            flows: BTreeMap::new(),
        }
    }

    pub(crate) fn host(&self) -> Ipv4Addr {
        self.host
    }

    /// The address that everybody knows.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        let known = self.kind.has_address();
        known.then(|| SocketAddr::from((self.host, PORT)))
    }

    /// The NAT was started anew, or has got another address.
    pub(crate) fn renew(&mut self, host: Ipv4Addr) {
        self.host = host;
        self.next_port += 100;
        self.ports.clear();
        self.flows.clear();
    }

    /// The source of a datagram to `to`, as it leaves.
    pub(crate) fn leave(&mut self, to: SocketAddr, now: Duration) -> SocketAddr {
        let port = match self.kind {
            Kind::Open | Kind::Firewall => PORT,
            Kind::FullCone | Kind::Restricted => self.port(None, now),
            Kind::Symmetric => self.port(Some(to), now),
        };
        self.flows.insert((port, to), now);
        SocketAddr::from((self.host, port))
    }

    /// Whether a datagram is let in.
    pub(crate) fn admits(&self, from: SocketAddr, port: u16, now: Duration) -> bool {
        let fresh = |at: &Duration| now - *at < FORGETS;
        let answers = self.flows.get(&(port, from)).is_some_and(fresh);
        match self.kind {
            Kind::Open => port == PORT,
            Kind::Firewall | Kind::Restricted | Kind::Symmetric => answers,
            Kind::FullCone => {
                let mapped = self.ports.get(&None);
                mapped.is_some_and(|(mapped, at)| *mapped == port && fresh(at))
            }
        }
    }

    fn port(&mut self, to: Option<SocketAddr>, now: Duration) -> u16 {
        let next = self.next_port;
        let (port, at) = self.ports.entry(to).or_insert((0, Duration::ZERO));
        if *port == 0 || now - *at >= FORGETS {
            *port = next;
            self.next_port += 1;
        }
        *at = now;
        *port
    }
}
