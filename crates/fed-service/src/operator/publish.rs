//! `connect.json`: what clients read to find a federation.

use std::path::Path;

use fed_core::Plan;
use serde::Serialize;

use super::state::FederationFolder;
use crate::node::GatewayInfo;
use crate::state::{self, StateError};

#[derive(Serialize)]
struct Connect<'a> {
    name: &'a str,
    federation: String,
    scheduler: String,
    ca: &'a Path,
    certificate: &'a Path,
    key: &'a Path,
    dashboard: &'a str,
    pools: Vec<Pool<'a>>,
    versions: &'a fed_core::VersionTable,
}

#[derive(Serialize)]
struct Pool<'a> {
    name: &'a str,
    site: &'a str,
    workers: u32,
    data_roots: &'a [String],
}

/// Writes the file as a whole, so that a client finds it when it can connect and not before.
pub(super) fn publish(
    folder: &FederationFolder,
    plan: &Plan,
    gateway: &GatewayInfo,
) -> Result<(), StateError> {
    let pools = plan.pools().map(|(site, pool)| Pool {
        name: pool.offer.name.as_str(),
        site: site.site.as_str(),
        workers: pool.workers,
        data_roots: &pool.offer.data_roots,
    });
    state::write_json(
        &folder.connect(),
        &Connect {
            name: plan.name.as_str(),
            federation: plan.id.to_string(),
            scheduler: format!("tls://{}", gateway.scheduler),
            // Written by the node that opened the gateway.
            ca: Path::new("scheduler.pem"),
            certificate: Path::new("client.pem"),
            key: Path::new("client-key.pem"),
            dashboard: &gateway.dashboard,
            pools: pools.collect(),
            versions: &plan.versions,
        },
    )
}
