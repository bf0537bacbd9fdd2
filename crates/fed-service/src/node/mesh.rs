//! The mesh of a node: the router's key, its UDP socket and its peers by name.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use fed_core::{FederationId, Member, MemberId, Peer};
use fed_mesh::{
    ByPath, Drops, Ipv6Prefix, KEEPALIVE, Path, PathKind, PeerConfig, PeerStatus, PrivateKey,
    PublicKey, Router,
};
use fed_rpc::Fingerprint;
use fed_tun::{Driver, Handle};

use super::bridge::Bridges;
use super::news::News;
use super::protocol::{MeshReport, PathReport, PeerReport, Ready};

/// A member's subnet is a /64.
const SUBNET_LEN: u8 = 64;

/// So long peers are tried by UDP, straight and relayed, before they are by TCP.
const UDP_PATIENCE: Duration = Duration::from_secs(4);

/// So many of the host's own addresses are told, of IPv4 and IPv6 half each where there are both.
const OWN_ADDRESSES: usize = 4;

/// Opens the UDP socket of the mesh, for IPv4 and IPv6 where the host has it.
pub(super) fn open_udp() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))
}

/// The host's addresses that others might reach. A host whose addresses cannot be listed is reached
/// where others see it.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the host's own addresses cannot be listed");
            return Vec::new();
        }
    };
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip())))
    });
    told_of(addresses.filter(is_routable))
}

fn told_of(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (mut own, mut ipv6): (Vec<_>, Vec<_>) = addresses.partition(IpAddr::is_ipv4);
    own.truncate(OWN_ADDRESSES - ipv6.len().min(OWN_ADDRESSES / 2));
    ipv6.truncate(OWN_ADDRESSES - own.len());
    own.extend(ipv6);
    own
}

/// Whether an address means the same on another host.
fn is_routable(address: &IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !local && !address.is_loopback() && !address.is_unspecified()
}

/// The mesh of one node.
#[derive(Debug)]
pub(super) struct Mesh {
    federation: FederationId,
    names: BTreeMap<MemberId, String>,
    keys: BTreeMap<MemberId, PublicKey>,
    /// What the router has been told, with the keys of the bridges to its peers.
    told: BTreeMap<MemberId, (PeerConfig, Option<Fingerprint>)>,
    /// When it was told of its peers first.
    connected: Option<Instant>,
    bridges: Bridges,
    bridged: BTreeMap<MemberId, SocketAddr>,
    handle: Handle,
    news: News,
    ready: Ready,
}

impl Mesh {
    /// Makes a key and starts to route. The key never leaves this process.
    pub(super) async fn start(
        federation: FederationId,
        members: &[Member],
        tun: OwnedFd,
        udp: UdpSocket,
    ) -> io::Result<Self> {
        let key = PrivateKey::generate();
        let udp_port = udp.local_addr()?.port();
        let bridges = Bridges::start(udp_port).await?;
        let ready = Ready {
            public_key: key.public_key().to_string(),
            udp_port,
            fingerprint: bridges.fingerprint().to_string(),
            addresses: own_addresses(),
            pid: std::process::id(),
        };
        let handle = Driver::start(tun, udp, Router::new(key, Instant::now()))?;
        let names = members
            .iter()
            .map(|member| (member.id, member.name.clone()))
            .collect();
        Ok(Self {
            federation,
            names,
            keys: BTreeMap::new(),
            told: BTreeMap::new(),
            connected: None,
            bridges,
            bridged: BTreeMap::new(),
            news: News::new(handle.events().map_err(io::Error::other)?),
            handle,
            ready,
        })
    }

    /// The node's key and port.
    pub(super) fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Replaces the peers.
    pub(super) async fn connect(&mut self, peers: Vec<Peer>) -> Result<(), String> {
        let mut keys = BTreeMap::new();
        let mut told = BTreeMap::new();
        // At the same time: a name server that is dead keeps each waiting for some seconds.
        let resolved = peers.iter().map(async |peer| match &peer.endpoint {
            None => Ok(Vec::new()),
            Some(endpoint) => resolve(endpoint).await,
        });
        let resolved = futures::future::try_join_all(resolved).await?;
        for (peer, mut endpoints) in peers.into_iter().zip(resolved) {
            let public_key: PublicKey = peer
                .public_key
                .parse()
                .map_err(|error| format!("peer {:?}: {error}", peer.member))?;
            let prefix = Ipv6Prefix::new(self.federation.subnet(peer.member), SUBNET_LEN)
                .map_err(|error| error.to_string())?;
            endpoints.extend(peer.candidates);
            let fingerprint = Some(peer.fingerprint).filter(|fingerprint| !fingerprint.is_empty());
            let fingerprint = fingerprint
                .map(|text| text.parse::<Fingerprint>())
                .transpose();
            let fingerprint =
                fingerprint.map_err(|error| format!("peer {:?}: {error}", peer.member))?;
            keys.insert(peer.member, public_key);
            let config = PeerConfig {
                public_key,
                endpoints,
                allowed_ips: vec![prefix],
                keepalive: Some(KEEPALIVE),
            };
            told.insert(peer.member, (config, fingerprint));
        }
        self.tell(&told, &self.bridges.open()).await?;
        let fingerprints = told.values().filter_map(|(_, fingerprint)| *fingerprint);
        self.bridges.admit(fingerprints.collect());
        (self.keys, self.told) = (keys, told);
        self.connected.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Hands the router its peers, each with its bridge as the first endpoint.
    async fn tell(
        &self,
        told: &BTreeMap<MemberId, (PeerConfig, Option<Fingerprint>)>,
        bridged: &BTreeMap<MemberId, SocketAddr>,
    ) -> Result<(), String> {
        let configs = told.iter().map(|(member, (config, _))| {
            let mut config = config.clone();
            let bridge = bridged.get(member).into_iter();
            config.endpoints = bridge.copied().chain(config.endpoints).collect();
            config
        });
        let set = self.handle.set_peers(configs.collect()).await;
        set.map_err(|error| error.to_string())
    }

    /// Writes what has happened to the log, and opens bridges where they are wanted. To be called
    /// about once a second.
    pub(super) async fn tend(&mut self) {
        let (keys, names) = (&self.keys, &self.names);
        self.news.log(|peer| match member_of(keys, peer) {
            Some(member) => name(names, member),
            None => peer.to_string(),
        });
        self.look_after_bridges().await;
    }

    /// Opens bridges to peers that are not reached by UDP, straight or relayed.
    async fn look_after_bridges(&mut self) {
        if self.connected.is_none_or(|at| at.elapsed() < UDP_PATIENCE) {
            return;
        }
        let status = self.handle.peers().await.unwrap_or_default();
        for (member, (config, fingerprint)) in &self.told {
            let peer = status
                .iter()
                .find(|peer| peer.public_key == config.public_key);
            if let Some(fingerprint) = fingerprint
                && peer.is_none_or(PeerStatus::is_cut_off)
            {
                self.bridges
                    .dial(*member, *fingerprint, config.endpoints.clone());
            }
        }
        let open = self.bridges.open();
        if open != self.bridged {
            match self.tell(&self.told, &open).await {
                Ok(()) => self.bridged = open,
                Err(problem) => tracing::warn!(problem, "the router was not told of a bridge"),
            }
        }
    }

    /// How the peers stand, and what was dropped.
    pub(super) async fn report(&self) -> MeshReport {
        // A mesh that has stopped has none, and ends the node.
        let Ok(status) = self.handle.status().await else {
            return MeshReport::default();
        };
        let peers = self.keys.iter().filter_map(|(member, key)| {
            let peer = status.peers.iter().find(|peer| peer.public_key == *key)?;
            let relay = match peer.path {
                Some(Path::Relay(relay)) => member_of(&self.keys, relay),
                Some(Path::Udp(_)) | None => None,
            };
            Some(PeerReport {
                relay: relay.map(|relay| name(&self.names, relay)),
                ..peer_report(name(&self.names, *member), peer)
            })
        });
        let lost = status.losses.named().into_iter();
        MeshReport {
            peers: peers.collect(),
            drops: drops(&status.drops)
                .chain(lost.filter(|(_, count)| *count > 0))
                .map(|(reason, count)| (reason.to_owned(), count))
                .collect(),
        }
    }

    /// Returns why routing has ended by itself, when it does.
    pub(super) fn broken(&self) -> impl Future<Output = String> + use<> {
        let handle = self.handle.clone();
        async move {
            match handle.finished().await {
                Ok(()) => "it was stopped".to_owned(),
                Err(error) => error.to_string(),
            }
        }
    }

    /// Stops routing.
    pub(super) async fn stop(self) {
        self.handle.stop().await;
    }
}

fn name(names: &BTreeMap<MemberId, String>, member: MemberId) -> String {
    let name = names.get(&member).cloned();
    name.unwrap_or_else(|| format!("{member:?}"))
}

fn member_of(keys: &BTreeMap<MemberId, PublicKey>, key: PublicKey) -> Option<MemberId> {
    let mut keys = keys.iter();
    keys.find(|(_, other)| **other == key)
        .map(|(member, _)| *member)
}

fn peer_report(name: String, peer: &PeerStatus) -> PeerReport {
    let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    // Nothing but a bridge is on this host's own loopback.
    let endpoint = peer.endpoint.filter(|at| !at.ip().is_loopback());
    PeerReport {
        name,
        over_tls: peer.path.is_some() && peer.endpoint != endpoint,
        endpoint,
        handshake_seconds_ago: peer.last_handshake.map(|ago| ago.as_secs()),
        heard_seconds_ago: peer.last_heard.map(|ago| ago.as_secs()),
        relay: None,
        path_mtu: u32::try_from(peer.path_mtu).unwrap_or(u32::MAX),
        narrow_seconds: peer.narrow.map(|narrow| narrow.as_secs()),
        round_trip_microseconds: peer.rtt.map(microseconds),
        handshakes: peer.handshakes(),
        received_bytes: peer.received_bytes(),
        sent_bytes: peer.sent_bytes(),
        paths: path_reports(&peer.by_path),
        received_packets: peer.inner_received.packets,
        sent_packets: peer.inner_sent.packets,
        relayed_packets: peer.relayed.packets,
        relayed_bytes: peer.relayed.bytes,
        drops: drops(&peer.drops)
            .map(|(reason, count)| (reason.to_owned(), count))
            .collect(),
    }
}

fn path_reports(by_path: &ByPath) -> BTreeMap<String, PathReport> {
    let used = by_path.iter().filter_map(|(kind, went)| {
        let name = match kind {
            PathKind::Direct => "direct",
            // Nothing but TLS is bridged.
            PathKind::Bridged => "tls",
            PathKind::Relayed => "relayed",
        };
        let report = PathReport {
            received_bytes: went.received.bytes,
            sent_bytes: went.sent.bytes,
            received_datagrams: went.received.packets,
            sent_datagrams: went.sent.packets,
            handshakes: went.handshakes,
        };
        (report != PathReport::default()).then(|| (name.to_owned(), report))
    });
    used.collect()
}

/// What was dropped, by the reason's name.
fn drops(drops: &Drops) -> impl Iterator<Item = (&'static str, u64)> {
    drops.iter().map(|(reason, count)| (reason.name(), count))
}

/// All addresses of `host:port`, IPv4 and IPv6.
async fn resolve(endpoint: &str) -> Result<Vec<SocketAddr>, String> {
    let wrong = |reason: String| format!("endpoint {endpoint:?} does not resolve: {reason}");
    let addresses = tokio::net::lookup_host(endpoint)
        .await
        .map_err(|error| wrong(error.to_string()))?;
    let addresses: Vec<_> = addresses.collect();
    if addresses.is_empty() {
        return Err(wrong("no address".to_owned()));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_addresses_of_one_family_leave_room_for_the_other() {
        let v4s = (1..10).map(|host| IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)));
        let v6s = (1..10).map(|host| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host)));
        for (v4, v6, told) in [
            (9, 1, (3, 1)),
            (1, 9, (1, 3)),
            (9, 9, (2, 2)),
            (9, 0, (4, 0)),
            (1, 1, (1, 1)),
        ] {
            let of = |v4, v6| v4s.clone().take(v4).chain(v6s.clone().take(v6));
            let expected: Vec<_> = of(told.0, told.1).collect();
            assert_eq!(told_of(of(v4, v6)), expected);
        }
    }
}
