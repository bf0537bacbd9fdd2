//! The scheduler in the operator's node: how it is started, and which workers it knows.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fed_core::{MemberId, Plan, PoolName, SCHEDULER_PORT};
use http::Method;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpStream;

use super::report::WorkerReport;
use crate::node::{GatewayInfo, NodeFolder, ProcessRequest};
use crate::python::{self, Interpreter};

/// How long the scheduler may take to list its workers: with many tasks its loop is slow.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the scheduler listens inside the mesh.
pub(super) fn address(plan: &Plan) -> SocketAddr {
    SocketAddr::new(plan.id.router(MemberId::OPERATOR).into(), SCHEDULER_PORT)
}

/// Where the dashboard listens: on the loopback of the operator's sandbox, which only the gateway
/// reaches. Sites have no business there.
pub(super) const DASHBOARD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8787);

/// Describes the scheduler's process.
pub(super) fn process(
    plan: &Plan,
    interpreter: &Interpreter,
    folder: &NodeFolder,
) -> ProcessRequest {
    let arguments = [
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        &format!("[{}]", plan.id.router(MemberId::OPERATOR)),
        "--port",
        &SCHEDULER_PORT.to_string(),
        "--dashboard-address",
        &DASHBOARD.to_string(),
        "--preload",
        "fed.scheduler",
    ]
    .map(str::to_owned);
    let mut env = python::environment(&folder.scratch(), &folder.package());
    let pools: Vec<_> = plan
        .pools()
        .map(|(site, pool)| serde_json::json!({"name": pool.offer.name, "site": site.site}))
        .collect();
    env.insert(
        "FED_POOLS".to_owned(),
        serde_json::Value::from(pools).to_string(),
    );
    env.insert(
        "FED_POOL_TIMEOUT".to_owned(),
        plan.leases.pool().as_secs_f64().to_string(),
    );
    ProcessRequest {
        allowance: None,
        name: "scheduler".to_owned(),
        argv: interpreter.command(&arguments),
        env,
    }
}

/// Why the scheduler did not list its workers, or remove some.
#[derive(Debug, Error)]
#[error("the scheduler does not tell of its workers ({0})")]
pub(super) struct QueryError(String);

#[derive(Deserialize)]
struct Listing {
    workers: BTreeMap<String, Worker>,
}

#[derive(Deserialize)]
struct Worker {
    name: String,
    nthreads: u32,
    memory_limit: Option<u64>,
    resources: BTreeMap<String, f64>,
}

/// Has the scheduler remove the workers of these pools: their site is about to end them, or has.
pub(super) async fn remove_workers(
    gateway: &GatewayInfo,
    pools: &[&PoolName],
) -> Result<(), QueryError> {
    let body = Bytes::from(serde_json::json!({ "pools": pools }).to_string());
    let asked = ask(gateway, Method::POST, "/fed/lapsed.json", body);
    let asked = tokio::time::timeout(PATIENCE, asked).await;
    asked.map_err(|_| QueryError("no answer in 20 s".to_owned()))??;
    Ok(())
}

/// Asks the scheduler for its workers, by pool.
pub(super) async fn workers(
    gateway: &GatewayInfo,
) -> Result<BTreeMap<String, Vec<WorkerReport>>, QueryError> {
    let asked = tokio::time::timeout(
        PATIENCE,
        ask(gateway, Method::GET, "/fed/workers.json", Bytes::new()),
    )
    .await;
    let body = asked.map_err(|_| QueryError("no answer in 20 s".to_owned()))??;
    let listing: Listing =
        serde_json::from_slice(&body).map_err(|error| QueryError(error.to_string()))?;
    let mut pools: BTreeMap<String, Vec<WorkerReport>> = BTreeMap::new();
    for worker in listing.workers.into_values() {
        let pool = worker
            .resources
            .keys()
            .find_map(|resource| resource.strip_prefix("pool-"));
        pools
            .entry(pool.unwrap_or_default().to_owned())
            .or_default()
            .push(WorkerReport {
                name: worker.name,
                threads: worker.nthreads,
                memory_bytes: worker.memory_limit.unwrap_or_default(),
            });
    }
    for workers in pools.values_mut() {
        workers.sort_by(|left, right| left.name.cmp(&right.name));
    }
    Ok(pools)
}

/// One request through the gateway's dashboard listener.
async fn ask(
    gateway: &GatewayInfo,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, QueryError> {
    let wrong = |what: &dyn std::fmt::Display| QueryError(what.to_string());
    let uri: http::Uri = gateway.dashboard.parse().map_err(|error| wrong(&error))?;
    let authority = uri
        .authority()
        .ok_or_else(|| wrong(&"the dashboard has no address"))?;
    let token = uri
        .query()
        .and_then(|query| query.strip_prefix("token="))
        .unwrap_or_default();
    let stream = TcpStream::connect(authority.as_str())
        .await
        .map_err(|error| wrong(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| wrong(&error))?;
    let driver = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, authority.as_str())
        .header(http::header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::new(body))
        .map_err(|error| wrong(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| wrong(&error))?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| wrong(&error))?
        .to_bytes();
    driver.abort();
    if status.is_success() {
        Ok(body)
    } else {
        Err(wrong(&status))
    }
}
