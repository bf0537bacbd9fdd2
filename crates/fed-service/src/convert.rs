//! Between the messages of the control plane and the types of the core. What a peer sent is
//! checked here, once.

use fed_core::{Member, MemberId, Peer, PoolName, PoolOffer, PythonEnvironment, SiteDescription};
use fed_rpc::v1;

use crate::node::{MeshReport, PathReport, PeerReport};

/// A message that does not say what it should.
#[derive(Debug, thiserror::Error)]
#[error("field {field}: {problem}")]
pub(crate) struct Invalid {
    field: &'static str,
    problem: String,
}

/// Parses a field of a message.
pub(crate) fn parse<T>(field: &'static str, text: &str) -> Result<T, Invalid>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(|error: T::Err| Invalid {
        field,
        problem: error.to_string(),
    })
}

/// Takes the number of a member.
pub(crate) fn member_id(field: &'static str, number: u32) -> Result<MemberId, Invalid> {
    let number = u16::try_from(number);
    number.map(MemberId::site).map_err(|error| Invalid {
        field,
        problem: error.to_string(),
    })
}

/// Takes numbers of workers, one for each pool that is named.
pub(crate) fn pool_sizes(sizes: Vec<v1::PoolSize>) -> Result<Vec<(PoolName, u32)>, Invalid> {
    let mut pools: Vec<(PoolName, u32)> = Vec::with_capacity(sizes.len());
    for size in sizes {
        let pool: PoolName = parse("pool", &size.pool)?;
        if pools.iter().any(|(other, _)| *other == pool) {
            return Err(Invalid {
                field: "pools",
                problem: format!("{pool} is named twice; name each pool once"),
            });
        }
        pools.push((pool, size.workers));
    }
    Ok(pools)
}

pub(crate) fn description_to_wire(description: SiteDescription) -> v1::DescribeReply {
    v1::DescribeReply {
        site: description.site.into(),
        fed_version: description.fed_version,
        pools: description.pools.into_iter().map(offer_to_wire).collect(),
        python: Some(v1::Python {
            executable: description.python.executable,
            version: description.python.version,
            packages: description.python.packages.into_iter().collect(),
        }),
        next_fingerprint: String::new(),
    }
}

fn offer_to_wire(offer: PoolOffer) -> v1::Pool {
    v1::Pool {
        name: offer.name.into(),
        data_roots: offer.data_roots,
        default_workers: offer.default_workers,
        max_workers: offer.max_workers,
        threads_per_worker: offer.threads,
        memory_bytes_per_worker: offer.memory_bytes,
    }
}

pub(crate) fn description(reply: v1::DescribeReply) -> Result<SiteDescription, Invalid> {
    let python = reply.python.unwrap_or_default();
    Ok(SiteDescription {
        site: parse("site", &reply.site)?,
        fed_version: reply.fed_version,
        pools: reply
            .pools
            .into_iter()
            .map(offer)
            .collect::<Result<_, _>>()?,
        python: PythonEnvironment {
            executable: python.executable,
            version: python.version,
            packages: python.packages.into_iter().collect(),
        },
    })
}

fn offer(pool: v1::Pool) -> Result<PoolOffer, Invalid> {
    Ok(PoolOffer {
        name: parse("pools.name", &pool.name)?,
        data_roots: pool.data_roots,
        default_workers: pool.default_workers,
        max_workers: pool.max_workers,
        threads: pool.threads_per_worker,
        memory_bytes: pool.memory_bytes_per_worker,
    })
}

pub(crate) fn members_to_wire(members: &[Member]) -> Vec<v1::Member> {
    members
        .iter()
        .map(|member| v1::Member {
            site_number: u32::from(member.id.number()),
            name: member.name.clone(),
        })
        .collect()
}

pub(crate) fn members(members: Vec<v1::Member>) -> Result<Vec<Member>, Invalid> {
    members
        .into_iter()
        .map(|member| {
            let id = member_id("members.site_number", member.site_number)?;
            // Host names inside the sandbox are made of these.
            let name: fed_core::SiteName = parse("members.name", &member.name)?;
            Ok(Member {
                id,
                name: name.into(),
            })
        })
        .collect()
}

pub(crate) fn peers_to_wire(peers: Vec<Peer>) -> Vec<v1::Peer> {
    peers
        .into_iter()
        .map(|peer| v1::Peer {
            site_number: u32::from(peer.member.number()),
            public_key: peer.public_key,
            endpoint: peer.endpoint.unwrap_or_default(),
            candidates: peer.candidates.iter().map(ToString::to_string).collect(),
            fingerprint: peer.fingerprint,
        })
        .collect()
}

pub(crate) fn peers(peers: Vec<v1::Peer>) -> Result<Vec<Peer>, Invalid> {
    peers
        .into_iter()
        .map(|peer| {
            Ok(Peer {
                member: member_id("peers.site_number", peer.site_number)?,
                public_key: peer.public_key,
                endpoint: Some(peer.endpoint).filter(|endpoint| !endpoint.is_empty()),
                candidates: peer
                    .candidates
                    .iter()
                    .map(|at| parse("peers.candidates", at))
                    .collect::<Result<_, _>>()?,
                fingerprint: peer.fingerprint,
            })
        })
        .collect()
}

pub(crate) fn mesh_to_wire(mesh: MeshReport) -> v1::ProbeReply {
    v1::ProbeReply {
        peers: mesh.peers.into_iter().map(peer_to_wire).collect(),
        drops: mesh.drops.into_iter().collect(),
    }
}

fn peer_to_wire(peer: PeerReport) -> v1::PeerState {
    let endpoint = peer.endpoint.map(|endpoint| endpoint.to_string());
    v1::PeerState {
        name: peer.name,
        endpoint: endpoint.unwrap_or_default(),
        handshake_seconds_ago: peer.handshake_seconds_ago,
        heard_seconds_ago: peer.heard_seconds_ago,
        received_bytes: peer.received_bytes,
        sent_bytes: peer.sent_bytes,
        received_packets: peer.received_packets,
        sent_packets: peer.sent_packets,
        relayed_packets: peer.relayed_packets,
        relayed_bytes: peer.relayed_bytes,
        handshakes: peer.handshakes,
        path_mtu: peer.path_mtu,
        narrow_seconds: peer.narrow_seconds,
        round_trip_microseconds: peer.round_trip_microseconds,
        relay: peer.relay.unwrap_or_default(),
        over_tls: peer.over_tls,
        drops: peer.drops.into_iter().collect(),
        paths: peer.paths.into_iter().map(path_to_wire).collect(),
    }
}

fn path_to_wire((kind, path): (String, PathReport)) -> (String, v1::PathTraffic) {
    let path = v1::PathTraffic {
        received_bytes: path.received_bytes,
        sent_bytes: path.sent_bytes,
        received_datagrams: path.received_datagrams,
        sent_datagrams: path.sent_datagrams,
        handshakes: path.handshakes,
    };
    (kind, path)
}

fn path((kind, path): (String, v1::PathTraffic)) -> (String, PathReport) {
    let path = PathReport {
        received_bytes: path.received_bytes,
        sent_bytes: path.sent_bytes,
        received_datagrams: path.received_datagrams,
        sent_datagrams: path.sent_datagrams,
        handshakes: path.handshakes,
    };
    (kind, path)
}

/// Takes how a site's mesh stands. All of it is only shown.
pub(crate) fn mesh(reply: v1::ProbeReply) -> MeshReport {
    MeshReport {
        peers: reply.peers.into_iter().map(peer).collect(),
        drops: reply.drops.into_iter().collect(),
    }
}

fn peer(peer: v1::PeerState) -> PeerReport {
    PeerReport {
        relay: Some(peer.relay).filter(|relay| !relay.is_empty()),
        over_tls: peer.over_tls,
        name: peer.name,
        endpoint: peer.endpoint.parse().ok(),
        handshake_seconds_ago: peer.handshake_seconds_ago,
        heard_seconds_ago: peer.heard_seconds_ago,
        path_mtu: peer.path_mtu,
        narrow_seconds: peer.narrow_seconds,
        round_trip_microseconds: peer.round_trip_microseconds,
        handshakes: peer.handshakes,
        received_bytes: peer.received_bytes,
        sent_bytes: peer.sent_bytes,
        received_packets: peer.received_packets,
        sent_packets: peer.sent_packets,
        relayed_packets: peer.relayed_packets,
        relayed_bytes: peer.relayed_bytes,
        drops: peer.drops.into_iter().collect(),
        paths: peer.paths.into_iter().map(path).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_one_size() {
        let size = |pool: &str, workers| v1::PoolSize {
            pool: pool.to_owned(),
            workers,
        };
        let sizes = pool_sizes(vec![size("hot", 1), size("cold", 2)]).unwrap();
        let sizes: Vec<_> = sizes.iter().map(|(pool, n)| (pool.as_str(), *n)).collect();
        assert_eq!(sizes, [("hot", 1), ("cold", 2)]);
        let twice = pool_sizes(vec![size("hot", 4), size("cold", 1), size("hot", 0)]);
        assert_eq!(
            twice.unwrap_err().to_string(),
            "field pools: hot is named twice; name each pool once"
        );
    }
}
