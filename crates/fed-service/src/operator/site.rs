//! One site's agent, as the operator calls it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fed_core::{
    FederationId, Leases, Member, MemberId, Peer, Plan, SiteDescription, SiteName, SitePlan,
};
use fed_rpc::client::{self, ConnectError};
use fed_rpc::possession::{self, ChannelBinding, Purpose};
use fed_rpc::reverse::{self, Awaited};
use fed_rpc::status::{CallError, ENDED_HERE, Reason};
use fed_rpc::tls::Pins;
use fed_rpc::v1::{self, agent_client::AgentClient};
use fed_rpc::{Fingerprint, Identity};
use thiserror::Error;
use tonic::Request;
use tonic::transport::Channel;
use tracing::{info, warn};

use super::inbound::Inbound;
use super::state::{OperatorState, Site, Way};
use crate::convert::{self, Invalid};
use crate::node::MeshReport;
use crate::state::StateError;

/// How long an agent may take to look at a slow file system.
const DESCRIBE_PATIENCE: Duration = Duration::from_secs(90);

/// Why a call to a site did not work. The site is named by who reports it.
#[derive(Debug, Error)]
pub enum SiteError {
    /// Its agent could not be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The recorded fingerprint is none.
    #[error("its recorded fingerprint is damaged ({0}); remove the site and add it again")]
    Fingerprint(#[from] fed_rpc::identity::ParseFingerprintError),
    /// The agent refused, or the connection broke.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What was learnt of the site could not be recorded.
    #[error(transparent)]
    State(#[from] StateError),
    /// The agent answered nonsense.
    #[error("its agent answered something that is not right: {0}")]
    Answer(String),
}

impl From<tonic::Status> for SiteError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(status.into())
    }
}

impl From<Invalid> for SiteError {
    fn from(error: Invalid) -> Self {
        Self::Answer(error.to_string())
    }
}

impl SiteError {
    /// If the site says that it has ended the federation, why.
    pub(super) fn end(&self) -> Option<&str> {
        match self {
            Self::Call(CallError::Refused(refusal))
                if refusal.reason == Reason::UnknownFederation =>
            {
                let message = refusal.message.as_str();
                Some(message.strip_prefix(ENDED_HERE).unwrap_or(message))
            }
            Self::Connect(_)
            | Self::Fingerprint(_)
            | Self::Call(_)
            | Self::State(_)
            | Self::Answer(_) => None,
        }
    }

    /// Whether the site has removed this operator, which has ended all that they ran there.
    pub(super) fn is_dismissal(&self) -> bool {
        match self {
            Self::Connect(error) => matches!(error, ConnectError::Refused { .. }),
            Self::Call(CallError::Refused(refusal)) => refusal.reason == Reason::NotAllowed,
            Self::Call(CallError::Unenrolled(_)) => true,
            Self::Fingerprint(_) | Self::Call(_) | Self::State(_) | Self::Answer(_) => false,
        }
    }
}

/// Connects to a site's agent, or has it connect; returns also the host where it is.
pub(super) async fn reach(
    inbound: &Inbound,
    site: &SiteName,
    way: &Way,
    identity: &Identity,
    pins: &Pins,
) -> Result<(client::Connected, String), ConnectError> {
    let listen = match way {
        Way::Address(address) => {
            let connected =
                client::connect_to_any(address, identity, pins, Leases::CONNECT).await?;
            let host = address.rsplit_once(':').map_or("", |(host, _)| host);
            return Ok((connected, host.to_owned()));
        }
        Way::Listen(listen) => listen.clone(),
    };
    let awaited = Awaited {
        site: site.to_string(),
        listen: listen.clone(),
        agent: pins.clone(),
        timeout: Leases::DIALLED,
    };
    let (inbound, name) = (inbound.clone(), site.clone());
    let next = move || {
        let (inbound, listen, name) = (inbound.clone(), listen.clone(), name.clone());
        async move { inbound.caller(&listen, &name).await }
    };
    let name = site.clone();
    let refused = move |error: &ConnectError| warn!(site = %name, %error, "connection refused");
    let (connected, remote) = reverse::connect(awaited, identity, next, refused).await?;
    let host = match remote.ip().to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    Ok((connected, host))
}

/// A connection to a site's agent. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct SiteClient {
    pub(super) name: SiteName,
    /// Where its agent is, as far as this host knows.
    host: String,
    agent: AgentClient<Channel>,
    binding: ChannelBinding,
    pins: Pins,
    state: OperatorState,
}

impl SiteClient {
    /// Connects to an agent that shows its recorded key, or the one that it has announced: from
    /// then on that one is recorded.
    pub(super) async fn connect(
        state: &OperatorState,
        inbound: &Inbound,
        name: SiteName,
        site: &Site,
        identity: &Identity,
    ) -> Result<Self, SiteError> {
        let own: Fingerprint = site.fingerprint.parse()?;
        let next = site.next.as_deref().map(str::parse).transpose()?;
        let pins = Pins::new(std::iter::once(own).chain(next));
        let (connected, host) = reach(inbound, &name, &site.way, identity, &pins).await?;
        let client::Connected {
            agent,
            seen,
            binding,
        } = connected;
        if seen != own {
            let shown = seen.to_string();
            state.change_site(&name, |site| {
                if site.next.as_ref() == Some(&shown) {
                    site.next = None;
                }
                site.fingerprint = shown;
            })?;
            info!(site = %name, fingerprint = %seen, "the agent has changed to the key that it announced");
        }
        Ok(Self {
            name,
            host,
            agent,
            binding,
            pins,
            state: state.clone(),
        })
    }

    /// Records the key that the agent announces, so that it is known when the agent changes to it.
    fn learn(&self, announced: &str) -> Result<(), SiteError> {
        if announced.is_empty() {
            return Ok(());
        }
        let next: Fingerprint = announced.parse().map_err(|error| {
            SiteError::Answer(format!("it announces a key that is none ({error})"))
        })?;
        self.pins.add(next);
        let recorded = self.state.sites()?;
        if recorded
            .get(&self.name)
            .is_some_and(|site| site.next.as_deref() != Some(announced))
        {
            self.state.change_site(&self.name, |site| {
                if site.fingerprint != announced {
                    site.next = Some(announced.to_owned());
                }
            })?;
        }
        Ok(())
    }

    pub(super) async fn describe(&self) -> Result<SiteDescription, SiteError> {
        let mut request = Request::new(v1::DescribeRequest {});
        request.set_timeout(DESCRIBE_PATIENCE);
        let reply = self.agent.clone().describe(request).await?.into_inner();
        self.learn(&reply.next_fingerprint)?;
        Ok(convert::description(reply)?)
    }

    /// Has the agent take another key of the operator's too; the others count for `keep`. To be
    /// called on the connection that [`SiteClient::connect`] has just made.
    pub(super) async fn rotate(&self, new: &Identity, keep: Duration) -> Result<(), SiteError> {
        let request = timed(v1::RotateRequest {
            operator_certificate: new.certificate().to_vec(),
            keep_seconds: keep.as_secs(),
            proof: possession::prove(new, Purpose::Rotate, &self.binding),
        });
        self.agent.clone().rotate(request).await?;
        Ok(())
    }

    /// Starts the site's node; returns it as the other members must know it.
    pub(super) async fn prepare(&self, plan: &Plan, member: MemberId) -> Result<Peer, SiteError> {
        let members: Vec<Member> = plan.members();
        let request = timed(v1::PrepareRequest {
            federation: plan.id.to_string(),
            name: plan.name.to_string(),
            site_number: u32::from(member.number()),
            lease_seconds: plan.leases.federation().as_secs(),
            members: convert::members_to_wire(&members),
        });
        let reply = self.agent.clone().prepare(request).await?.into_inner();
        let port = udp_port(reply.udp_port)?;
        let endpoint = Some(format!("{}:{port}", self.host));
        let candidates = reply.addresses.iter().map(|address| {
            let address: IpAddr = address
                .parse()
                .map_err(|_| SiteError::Answer(format!("{address:?} is no address")))?;
            Ok(SocketAddr::new(address, port))
        });
        Ok(Peer {
            member,
            public_key: reply.public_key,
            endpoint,
            candidates: candidates.collect::<Result<_, SiteError>>()?,
            fingerprint: reply.fingerprint,
        })
    }

    pub(super) async fn peers(&self, id: FederationId, peers: Vec<Peer>) -> Result<(), SiteError> {
        let peers = convert::peers_to_wire(peers);
        let request = timed(v1::ConnectRequest {
            federation: id.to_string(),
            peers,
        });
        self.agent.clone().connect(request).await?;
        Ok(())
    }

    pub(super) async fn probe(&self, id: FederationId) -> Result<MeshReport, SiteError> {
        let request = timed(v1::ProbeRequest {
            federation: id.to_string(),
        });
        let reply = self.agent.clone().probe(request).await?.into_inner();
        Ok(convert::mesh(reply))
    }

    pub(super) async fn start(
        &self,
        id: FederationId,
        site: &SitePlan,
        scheduler: String,
        all_pools: Vec<String>,
    ) -> Result<Vec<String>, SiteError> {
        let pools = site.pools.iter().map(|pool| v1::PoolSize {
            pool: pool.offer.name.to_string(),
            workers: pool.workers,
        });
        let request = timed(v1::StartRequest {
            federation: id.to_string(),
            scheduler,
            pools: pools.collect(),
            all_pools,
        });
        Ok(self
            .agent
            .clone()
            .start(request)
            .await?
            .into_inner()
            .workers)
    }

    pub(super) async fn watch(
        &self,
        id: FederationId,
    ) -> Result<tonic::Streaming<v1::Event>, SiteError> {
        let request = Request::new(v1::WatchRequest {
            federation: id.to_string(),
        });
        Ok(self.agent.clone().watch(request).await?.into_inner())
    }

    /// The last lines of the site's logs, by process.
    pub(super) async fn logs(
        &self,
        id: FederationId,
        tail: u32,
    ) -> Result<BTreeMap<String, Vec<String>>, SiteError> {
        let request = timed(v1::LogsRequest {
            federation: id.to_string(),
            tail,
        });
        let mut lines = self.agent.clone().logs(request).await?.into_inner();
        let mut logs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some(line) = lines.message().await? {
            logs.entry(line.source).or_default().push(line.line);
        }
        Ok(logs)
    }

    /// Extends the lease, if the agent answers within `patience`.
    pub(super) async fn renew(
        &self,
        id: FederationId,
        patience: Duration,
    ) -> Result<(), SiteError> {
        let mut request = timed(v1::RenewRequest {
            federation: id.to_string(),
        });
        let patience = patience.min(Leases::CALL);
        request.set_timeout(patience);
        let mut agent = self.agent.clone();
        let reply = within(patience, agent.renew(request)).await?.into_inner();
        self.learn(&reply.next_fingerprint)
    }

    /// Ends a federation there. One whose operator the site has removed has ended already.
    pub(super) async fn leave(&self, id: FederationId) -> Result<(), SiteError> {
        let mut request = Request::new(v1::LeaveRequest {
            federation: id.to_string(),
        });
        request.set_timeout(Leases::LEAVE);
        let mut agent = self.agent.clone();
        let left = within(Leases::LEAVE + Leases::DIALLED, agent.leave(request)).await;
        match left {
            Err(error) if !error.is_dismissal() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Waits for a call this long, the time in which the connection is made again included: a call's
/// own timeout begins only then, and calls that wait for a connection wait one after another.
async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<tonic::Response<T>, SiteError> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(SiteError::Call(CallError::Deadline {
            message: format!("no connection and no answer in {} s", patience.as_secs()),
        })),
    }
}

/// The port of a node. Nothing can be sent to port 0.
fn udp_port(told: u32) -> Result<u16, SiteError> {
    u16::try_from(told)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| {
            SiteError::Answer(format!("its node listens at {told}, which is no UDP port"))
        })
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Leases::CALL);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_listens_at_a_port_that_can_be_sent_to() {
        assert_eq!(udp_port(51_820).unwrap(), 51_820);
        for told in [0, 65_536] {
            let error = udp_port(told).unwrap_err().to_string();
            assert!(error.contains(&format!("listens at {told}")), "{error}");
        }
    }
}
