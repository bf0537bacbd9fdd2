//! The calls of `fed.agent.v1`: who is calling, is the message right, and on to the federation.

use std::pin::Pin;
use std::time::Duration;

use fed_core::{FederationId, Leases, SiteDescription};
use fed_rpc::status::{Reason, Refusal};
use fed_rpc::v1::{self, agent_server::Agent};
use fed_rpc::{Fingerprint, PeerIdentity};
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::federation::{Call, Federation, Happening, Record};
use super::registry::Registry;
use super::roster::{Operator, Role, Roster, RosterError};
use crate::convert::{self, Invalid};

/// Longest name that an operator may give themselves, in bytes.
const OPERATOR_NAME_LIMIT: usize = 64;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The agent's side of the control plane.
#[derive(Debug)]
pub(super) struct Service {
    roster: Roster,
    registry: Registry,
    ending: CancellationToken,
}

impl Service {
    pub(super) fn new(roster: Roster, registry: Registry, ending: CancellationToken) -> Self {
        Self {
            roster,
            registry,
            ending,
        }
    }

    /// Asked in every call, because a connection may outlive its operator's enrolment.
    fn operator<T>(&self, request: &Request<T>) -> Result<Operator, Status> {
        match self.roster.role(&caller(request)?.fingerprint) {
            Role::Operator(operator) => Ok(operator),
            Role::Invited | Role::Stranger => {
                let message = "this key is not an enrolled operator's; redeem an invitation first \
                               (`fed site add`)";
                Err(Refusal::new(Reason::NotAllowed, message).into())
            }
        }
    }

    fn federation<T>(&self, request: &Request<T>, id: &str) -> Result<Federation, Status> {
        let operator = self.operator(request)?;
        let id: FederationId = convert::parse("federation", id).map_err(invalid)?;
        Ok(self.registry.find(id, &operator.fingerprint)?)
    }
}

fn caller<T>(request: &Request<T>) -> Result<PeerIdentity, Status> {
    let peer = request.extensions().get::<PeerIdentity>().cloned();
    peer.ok_or_else(|| Refusal::new(Reason::NotAllowed, "the caller has no identity").into())
}

fn invalid(error: Invalid) -> Refusal {
    Refusal::from_error(Reason::InvalidRequest, &error)
}

fn pool_sizes(pools: Vec<v1::PoolSize>) -> Result<Vec<(fed_core::PoolName, u32)>, Invalid> {
    pools
        .into_iter()
        .map(|size| Ok((convert::parse("pool", &size.pool)?, size.workers)))
        .collect()
}

#[tonic::async_trait]
impl Agent for Service {
    type WatchStream = Streamed<v1::Event>;
    type LogsStream = Streamed<v1::LogLine>;

    async fn enrol(
        &self,
        request: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolReply>, Status> {
        let peer = caller(&request)?;
        let message = request.into_inner();
        let certificate = message.operator_certificate.into();
        let operator = Fingerprint::of_certificate(&certificate)
            .map_err(|error| Refusal::from_error(Reason::InvalidRequest, &error))?;
        let name = message.operator_name;
        if name.is_empty() || name.len() > OPERATOR_NAME_LIMIT || name.contains(char::is_control) {
            let message = "operator_name must be 1 to 64 bytes of text";
            return Err(Refusal::new(Reason::InvalidRequest, message).into());
        }
        self.roster
            .enrol(&peer.fingerprint, &operator, &name)
            .map_err(|error| match error {
                RosterError::Spent => Refusal::from_error(Reason::InvitationSpent, &error),
                RosterError::State(_) => Refusal::from_error(Reason::Internal, &error),
            })?;
        info!(operator = name, fingerprint = %operator, remote = %peer.remote, "operator enrolled");
        Ok(Response::new(v1::EnrolReply {
            site: self.registry.host().site.to_string(),
        }))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeReply>, Status> {
        self.operator(&request)?;
        let host = self.registry.host();
        let inspection = host.interpreter.inspect().await;
        let inspection =
            inspection.map_err(|error| Refusal::from_error(Reason::SiteNotReady, &error))?;
        Ok(Response::new(convert::description_to_wire(
            SiteDescription {
                site: host.site.clone(),
                fed_version: env!("CARGO_PKG_VERSION").to_owned(),
                pools: host.pools.clone(),
                python: inspection.environment,
            },
        )))
    }

    async fn prepare(
        &self,
        request: Request<v1::PrepareRequest>,
    ) -> Result<Response<v1::PrepareReply>, Status> {
        let operator = self.operator(&request)?;
        let record = record(request.into_inner(), &operator).map_err(invalid)?;
        info!(federation = %record.id, operator = operator.name, "prepare");
        let federation = self.registry.prepare(record)?;
        let ready = federation.call(Call::Prepare).await?;
        Ok(Response::new(v1::PrepareReply {
            public_key: ready.public_key,
            udp_port: u32::from(ready.udp_port),
        }))
    }

    async fn connect(
        &self,
        request: Request<v1::ConnectRequest>,
    ) -> Result<Response<v1::ConnectReply>, Status> {
        let federation = self.federation(&request, &request.get_ref().federation)?;
        let peers = convert::peers(request.into_inner().peers).map_err(invalid)?;
        federation
            .call(|answer| Call::Connect(peers, answer))
            .await?;
        Ok(Response::new(v1::ConnectReply {}))
    }

    async fn probe(
        &self,
        request: Request<v1::ProbeRequest>,
    ) -> Result<Response<v1::ProbeReply>, Status> {
        let federation = self.federation(&request, &request.get_ref().federation)?;
        let report = federation.call(Call::Report).await?;
        let peers = report.peers.into_iter().map(|peer| v1::PeerState {
            name: peer.name,
            endpoint: peer
                .endpoint
                .map(|endpoint| endpoint.to_string())
                .unwrap_or_default(),
            handshake_seconds_ago: peer.handshake_seconds_ago,
            received_bytes: peer.received_bytes,
            sent_bytes: peer.sent_bytes,
        });
        Ok(Response::new(v1::ProbeReply {
            peers: peers.collect(),
        }))
    }

    async fn start(
        &self,
        request: Request<v1::StartRequest>,
    ) -> Result<Response<v1::StartReply>, Status> {
        let federation = self.federation(&request, &request.get_ref().federation)?;
        let v1::StartRequest {
            scheduler,
            pools,
            all_pools,
            ..
        } = request.into_inner();
        let pools = pool_sizes(pools).map_err(invalid)?;
        let call = |answer| Call::Start {
            scheduler,
            pools,
            all_pools,
            answer,
        };
        let workers = federation.call(call).await?;
        Ok(Response::new(v1::StartReply { workers }))
    }

    async fn scale(
        &self,
        request: Request<v1::ScaleRequest>,
    ) -> Result<Response<v1::ScaleReply>, Status> {
        let federation = self.federation(&request, &request.get_ref().federation)?;
        let pool = request.into_inner().pool.unwrap_or_default();
        let name = convert::parse("pool", &pool.pool).map_err(invalid)?;
        let workers = federation
            .call(|answer| Call::Scale(name, pool.workers, answer))
            .await?;
        Ok(Response::new(v1::ScaleReply { workers }))
    }

    async fn stop(
        &self,
        request: Request<v1::StopRequest>,
    ) -> Result<Response<v1::StopReply>, Status> {
        let federation = self.federation(&request, &request.get_ref().federation)?;
        let workers = request.into_inner().workers;
        let workers = federation
            .call(|answer| Call::Stop(workers, answer))
            .await?;
        Ok(Response::new(v1::StopReply { workers }))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let federation = self.federation(&request, &request.get_ref().federation)?;
        let events =
            BroadcastStream::new(federation.watch()).filter_map(async |event| match event {
                Ok(happening) => Some(Ok(event_to_wire(happening))),
                Err(lagged) => {
                    warn!(%lagged, "a watcher was too slow");
                    None
                }
            });
        // Else the agent could not end while somebody watches.
        let ending = self.ending.clone().cancelled_owned();
        Ok(Response::new(Box::pin(events.take_until(ending))))
    }

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let federation = self.federation(&request, &request.get_ref().federation)?;
        let tail = usize::try_from(request.into_inner().tail).unwrap_or(usize::MAX);
        let lines = federation.call(|answer| Call::Logs(tail, answer)).await?;
        let lines = lines
            .into_iter()
            .map(|(source, line)| Ok(v1::LogLine { source, line }));
        Ok(Response::new(Box::pin(futures::stream::iter(lines))))
    }

    async fn renew(
        &self,
        request: Request<v1::RenewRequest>,
    ) -> Result<Response<v1::RenewReply>, Status> {
        let federation = self.federation(&request, &request.get_ref().federation)?;
        let lease = federation.call(Call::Renew).await?;
        Ok(Response::new(v1::RenewReply {
            lease_seconds: lease.as_secs(),
        }))
    }

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::LeaveReply>, Status> {
        let operator = self.operator(&request)?;
        let id = convert::parse("federation", &request.get_ref().federation).map_err(invalid)?;
        // One that is not there has been left: the call is idempotent.
        if let Ok(federation) = self.registry.find(id, &operator.fingerprint) {
            let left = federation.call(Call::Leave).await;
            if let Err(refusal) = left
                && refusal.reason != Reason::UnknownFederation
            {
                return Err(refusal.into());
            }
        }
        Ok(Response::new(v1::LeaveReply {}))
    }
}

fn record(message: v1::PrepareRequest, operator: &Operator) -> Result<Record, Invalid> {
    let lease = Leases::new(Duration::from_secs(message.lease_seconds)).federation();
    Ok(Record {
        id: convert::parse("federation", &message.federation)?,
        name: convert::parse("name", &message.name)?,
        operator: operator.fingerprint.clone(),
        member: convert::member_id("site_number", message.site_number)?,
        members: convert::members(message.members)?,
        lease,
        scheduler: None,
        node_pid: None,
        all_pools: Vec::new(),
        next_worker: 0,
        wanted: std::collections::BTreeMap::new(),
        workers: std::collections::BTreeMap::new(),
    })
}

fn event_to_wire(happening: Happening) -> v1::Event {
    use v1::event::What;
    let what = match happening {
        Happening::WorkerExited {
            worker,
            status,
            last_lines,
        } => What::WorkerExited(v1::WorkerExited {
            worker,
            status,
            last_lines,
        }),
        Happening::Ended { reason } => What::FederationEnded(v1::FederationEnded { reason }),
    };
    v1::Event { what: Some(what) }
}
