//! How a federation stands: asked of the scheduler and of every member at once.

use std::collections::BTreeMap;
use std::time::Duration;

use fed_core::{Leases, Member};
use tokio::time::timeout;

use super::driver::Driver;
use super::report::{MemberReport, Status, WorkerReport};
use super::scheduler;
use crate::node::MeshReport;

/// How long a member may take to answer: whoever asks wants to know which ones do not.
const PATIENCE: Duration = Leases::CONNECT;

type Workers = Result<BTreeMap<String, Vec<WorkerReport>>, String>;

/// Completes a status with what the members answer now.
pub(super) async fn ask(driver: Driver, status: Status) -> Status {
    let members = driver
        .plan
        .as_ref()
        .map(|plan| plan.members())
        .unwrap_or_default();
    let workers = match &driver.gateway {
        Some(gateway) => scheduler::workers(gateway)
            .await
            .map_err(|error| format!("{error}; `fed logs` may say why")),
        None => Ok(BTreeMap::new()),
    };
    let asked = members
        .into_iter()
        .map(|member| report(&driver, member, &workers));
    Status {
        members: futures::future::join_all(asked).await,
        ..status
    }
}

async fn report(driver: &Driver, member: Member, workers: &Workers) -> MemberReport {
    let own: Vec<String> = driver
        .plan
        .iter()
        .flat_map(|plan| plan.pools())
        .filter(|(site, _)| site.member == member.id)
        .map(|(_, pool)| pool.offer.name.to_string())
        .collect();
    let (mesh, problem) = match timeout(PATIENCE, driver.mesh(member.id)).await {
        Ok(Ok(mesh)) => (mesh, workers.as_ref().err().cloned()),
        Ok(Err(problem)) => (MeshReport::default(), Some(problem)),
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            let problem = format!("no answer in {seconds} s; is it cut off from the operator?");
            (MeshReport::default(), Some(problem))
        }
    };
    let known = |pool: &String| {
        workers
            .as_ref()
            .ok()
            .and_then(|pools| pools.get(pool))
            .cloned()
    };
    MemberReport {
        name: member.name,
        pools: own
            .into_iter()
            .map(|pool| (pool.clone(), known(&pool).unwrap_or_default()))
            .collect(),
        peers: mesh.peers,
        drops: mesh.drops,
        problem,
    }
}
