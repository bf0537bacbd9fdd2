//! Tells members where others see them, so that those behind NATs find one another.
//!
//! Each node reports where it sees each of its peers. Drawn together, that is where a member looks
//! like from outside; told to all, it is where all try to reach it, at the same time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use fed_core::{Member, MemberId, Peer};
use fed_mesh::{Mapping, PublicKey, Reflexive, Sighting};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::driver::Driver;
use crate::node::MeshReport;

/// How often members are asked while the mesh is being built, and for how long.
const HURRY: Duration = Duration::from_millis(500);
const HURRIED: Duration = Duration::from_secs(20);

/// How often they are asked then. Routers follow each other's moves by themselves; this is for two
/// behind NATs that have both got other addresses.
const PERIOD: Duration = Duration::from_secs(60);

/// How long a member may take to answer; one that is cut off is asked again the next time.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many addresses at which a member is seen are told: one of each family, and another for a
/// member that is seen at several. They are tried before the member's own addresses, for which
/// they leave room.
const TOLD: usize = 3;

/// Where each member is seen.
type Seen = BTreeMap<MemberId, Vec<SocketAddr>>;

/// Keeps all members informed until it is aborted. `peers` are all members' nodes, which know
/// of one another already.
pub(super) async fn keep(driver: Driver, peers: Vec<Peer>) {
    let began = Instant::now();
    let nothing = Seen::new();
    let connected = |peer: &Peer| (peer.member, others(&peers, &nothing, peer.member));
    let mut told: BTreeMap<MemberId, Vec<Peer>> = peers.iter().map(connected).collect();
    loop {
        let seen = look_around(&driver, &peers).await;
        for member in peers.iter().map(|peer| peer.member) {
            let others = others(&peers, &seen, member);
            if told.get(&member) == Some(&others) {
                continue;
            }
            match timeout(PATIENCE, driver.connect(member, others.clone())).await {
                Ok(Ok(())) => drop(told.insert(member, others)),
                Ok(Err(problem)) => debug!(?member, problem, "a member was not told"),
                Err(_) => debug!(?member, "a member was not told: it did not answer"),
            }
        }
        sleep(if began.elapsed() < HURRIED {
            HURRY
        } else {
            PERIOD
        })
        .await;
    }
}

/// Where each member is seen by the others.
async fn look_around(driver: &Driver, peers: &[Peer]) -> Seen {
    let members = driver.plan.as_ref().map(|plan| plan.members());
    let mut reports = Vec::new();
    for observer in peers {
        let asked = timeout(PATIENCE, driver.mesh(observer.member)).await;
        if let (Ok(Ok(mesh)), Ok(by)) = (asked, observer.public_key.parse::<PublicKey>()) {
            reports.push((by, mesh));
        }
    }
    draw_together(&members.unwrap_or_default(), &reports)
}

/// What the members' nodes, by their keys, report of one another.
fn draw_together(members: &[Member], reports: &[(PublicKey, MeshReport)]) -> Seen {
    let mut sightings: BTreeMap<MemberId, Vec<Sighting>> = BTreeMap::new();
    for (by, mesh) in reports {
        for report in &mesh.peers {
            let heard = report.heard_seconds_ago.map(Duration::from_secs);
            if let Some(seen) = members.iter().find(|member| member.name == report.name) {
                let sighting = Sighting::new(*by, report.endpoint, heard);
                sightings.entry(seen.id).or_default().extend(sighting);
            }
        }
    }
    let drawn = |(member, sightings): (MemberId, Vec<Sighting>)| {
        let Reflexive {
            mapping,
            mut addresses,
        } = Reflexive::of(&sightings);
        if mapping == Mapping::EndpointDependent {
            debug!(?member, ?addresses, "a symmetric NAT");
        }
        addresses.truncate(TOLD);
        (member, addresses)
    };
    sightings.into_iter().map(drawn).collect()
}

/// All members but one, with where they may be reached: first where they are seen.
fn others(peers: &[Peer], seen: &Seen, member: MemberId) -> Vec<Peer> {
    let others = peers.iter().filter(|peer| peer.member != member);
    others
        .map(|peer| {
            let mut candidates = seen.get(&peer.member).cloned().unwrap_or_default();
            let own = peer.candidates.iter().filter(|at| !candidates.contains(at));
            candidates.extend(own.copied().collect::<Vec<_>>());
            Peer {
                candidates,
                ..peer.clone()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use fed_mesh::PrivateKey;

    use super::*;
    use crate::node::PeerReport;

    const SITES: [&str; 2] = ["ecmwf", "eumetsat"];

    fn members() -> Vec<Member> {
        let numbered = (1..).zip(SITES).map(|(number, name)| Member {
            id: MemberId::site(number),
            name: name.to_owned(),
        });
        numbered.collect()
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    /// What a node says of one site: where it saw it, and how many seconds ago it last heard it.
    fn report(site: &str, endpoint: &str, heard: Option<u64>) -> (PublicKey, MeshReport) {
        let peer = PeerReport {
            name: site.to_owned(),
            endpoint: Some(at(endpoint)),
            // The last handshake stays, however long ago.
            handshake_seconds_ago: Some(1000),
            heard_seconds_ago: heard,
            ..PeerReport::default()
        };
        let report = MeshReport {
            peers: vec![peer],
            ..MeshReport::default()
        };
        (PrivateKey::generate().public_key(), report)
    }

    #[test]
    fn a_member_is_where_most_have_heard_it_of_late() {
        let seen = draw_together(
            &members(),
            &[
                report("ecmwf", "192.0.2.1:61000", Some(90)),
                report("ecmwf", "192.0.2.1:61000", Some(90)),
                report("ecmwf", "192.0.2.9:61000", Some(1)),
                report("eumetsat", "192.0.2.2:7", None),
                report("nobody", "192.0.2.3:7", Some(1)),
            ],
        );
        let moved = (MemberId::site(1), vec![at("192.0.2.9:61000")]);
        let unheard = (MemberId::site(2), Vec::new());
        assert_eq!(seen, BTreeMap::from([moved, unheard]));
    }

    #[test]
    fn a_symmetric_nat_fills_nobodys_candidates() {
        let ports = (1..=9).map(|port| report("ecmwf", &format!("192.0.2.1:{port}"), Some(1)));
        let reports: Vec<_> = ports.collect();
        let seen = draw_together(&members(), &reports);
        assert_eq!(seen[&MemberId::site(1)].len(), TOLD);
    }

    #[test]
    fn where_a_member_is_seen_comes_before_its_own_addresses() {
        let peer = |number, candidates: &[&str]| Peer {
            member: MemberId::site(number),
            public_key: String::new(),
            endpoint: None,
            candidates: candidates.iter().copied().map(at).collect(),
            fingerprint: String::new(),
        };
        let peers = [
            peer(1, &["10.0.0.1:9", "192.0.2.1:9"]),
            peer(2, &["10.0.0.2:9"]),
        ];
        let places = vec![at("192.0.2.1:61000"), at("192.0.2.1:9")];
        let seen = Seen::from([(MemberId::site(1), places)]);
        let told = others(&peers, &seen, MemberId::site(2));
        assert_eq!(
            told,
            [peer(1, &["192.0.2.1:61000", "192.0.2.1:9", "10.0.0.1:9"])]
        );
        assert_eq!(
            others(&peers, &seen, MemberId::site(1)),
            [peer(2, &["10.0.0.2:9"])]
        );
    }
}
