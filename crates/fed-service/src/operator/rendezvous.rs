//! Tells members where others see them, so that those behind NATs find one another.
//!
//! Each node reports where it sees each of its peers. Drawn together, that is where a member looks
//! like from outside; told to all, it is where all try to reach it, at the same time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use fed_core::{MemberId, Peer};
use fed_mesh::{Mapping, PublicKey, Reflexive, Sighting};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::driver::Driver;

/// How often members are asked while the mesh is being built, and for how long.
const HURRY: Duration = Duration::from_millis(500);
const HURRIED: Duration = Duration::from_secs(20);

/// How often they are asked then. Routers follow each other's moves by themselves; this is for two
/// behind NATs that have both got other addresses.
const PERIOD: Duration = Duration::from_secs(60);

/// How long a member may take to answer; one that is cut off is asked again the next time.
const PATIENCE: Duration = Duration::from_secs(5);

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
    let members = members.unwrap_or_default();
    let mut sightings: BTreeMap<MemberId, Vec<Sighting>> = BTreeMap::new();
    for observer in peers {
        let asked = timeout(PATIENCE, driver.mesh(observer.member)).await;
        let (Ok(Ok(mesh)), Ok(by)) = (asked, observer.public_key.parse::<PublicKey>()) else {
            continue;
        };
        for report in mesh.peers {
            let seen = members.iter().find(|member| member.name == report.name);
            let heard = report
                .endpoint
                .filter(|_| report.handshake_seconds_ago.is_some());
            if let (Some(seen), Some(at)) = (seen, heard) {
                sightings
                    .entry(seen.id)
                    .or_default()
                    .push(Sighting { by, at });
            }
        }
    }
    let drawn = |(member, sightings): (MemberId, Vec<Sighting>)| {
        let reflexive = Reflexive::of(&sightings);
        if reflexive.mapping == Mapping::EndpointDependent {
            debug!(?member, addresses = ?reflexive.addresses, "a symmetric NAT");
        }
        (member, reflexive.addresses)
    };
    sightings.into_iter().map(drawn).collect()
}

/// All members but one, with where they may be reached.
fn others(peers: &[Peer], seen: &Seen, member: MemberId) -> Vec<Peer> {
    let others = peers.iter().filter(|peer| peer.member != member);
    others
        .map(|peer| {
            let mut peer = peer.clone();
            let seen = seen.get(&peer.member).into_iter().flatten();
            for at in seen {
                if !peer.candidates.contains(at) {
                    peer.candidates.push(*at);
                }
            }
            peer
        })
        .collect()
}
