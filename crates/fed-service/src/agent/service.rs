//! What each call does, for an operator who may make it.

use std::sync::Arc;
use std::time::Duration;

use fed_core::{FederationId, Leases, PoolName, SiteDescription};
use fed_rpc::possession::{self, PossessionError, Purpose};
use fed_rpc::status::{Reason, Refusal};
use fed_rpc::{Fingerprint, PeerIdentity, v1};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::account::Reservation;
use super::audit::Audit;
use super::federation::{Call, Crew, Federation, Happening, Record};
use super::keys::Announced;
use super::policy::Limits;
use super::registry::Registry;
use super::roster::{Operator, Roster, RosterError, unix_seconds};
use super::site::Site;
use crate::convert::{self, Invalid};
use crate::deadline::seconds_since_boot;

/// Longest name that an operator may give themselves, in bytes.
const OPERATOR_NAME_LIMIT: usize = 64;
/// Longest time for which a key that was replaced still counts.
const LONGEST_KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// The agent's side of the control plane.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) roster: Roster,
    pub(super) registry: Registry,
    pub(super) audit: Arc<Audit>,
    pub(super) site: watch::Receiver<Arc<Site>>,
    pub(super) announced: watch::Receiver<Option<Announced>>,
    pub(super) ending: CancellationToken,
}

type Answer<T> = Result<T, Refusal>;

impl Service {
    fn site(&self) -> Arc<Site> {
        Arc::clone(&self.site.borrow())
    }

    fn next_fingerprint(&self) -> String {
        let announced = *self.announced.borrow();
        announced.map_or_else(String::new, |announced| announced.fingerprint.to_string())
    }

    /// What an operator may have, whichever of their keys they call with.
    fn limits(&self, site: &Site, operator: &Operator) -> Answer<Limits> {
        let present = self.roster.present(operator).map_err(refused)?;
        Ok(site.limits(&present))
    }

    fn federation(&self, operator: &Operator, id: &str) -> Answer<(FederationId, Federation)> {
        let id: FederationId = convert::parse("federation", id).map_err(invalid)?;
        Ok((id, self.registry.find(id, operator.id())?))
    }

    /// Redeems an invitation, whose key the peer holds.
    pub(super) fn enrol(
        &self,
        peer: &PeerIdentity,
        message: v1::EnrolRequest,
    ) -> Answer<(Operator, v1::EnrolReply)> {
        let name = message.operator_name;
        if name.is_empty() || name.len() > OPERATOR_NAME_LIMIT || name.contains(char::is_control) {
            let message = "operator_name must be 1 to 64 bytes of text";
            return Err(Refusal::new(Reason::InvalidRequest, message));
        }
        let purpose = Purpose::Enrol(&name);
        let operator = proved(message.operator_certificate, purpose, peer, &message.proof)?;
        let enrolled = self.roster.enrol(&peer.fingerprint, &operator, &name);
        let enrolled = enrolled.map_err(refused)?;
        info!(operator = enrolled.name, fingerprint = %operator, "operator enrolled");
        let reply = v1::EnrolReply {
            site: self.site().name.to_string(),
            next_fingerprint: self.next_fingerprint(),
        };
        Ok((enrolled, reply))
    }

    pub(super) fn rotate(
        &self,
        operator: &Operator,
        peer: &PeerIdentity,
        message: v1::RotateRequest,
    ) -> Answer<v1::RotateReply> {
        let certificate = message.operator_certificate;
        let new = proved(certificate, Purpose::Rotate, peer, &message.proof)?;
        let keep = Duration::from_secs(message.keep_seconds).min(LONGEST_KEEP);
        let rotated = self
            .roster
            .rotate(operator, &new, unix_seconds() + keep.as_secs());
        rotated.map_err(refused)?;
        info!(operator = operator.name, fingerprint = %new, "operator has a new key");
        Ok(v1::RotateReply {})
    }

    pub(super) async fn describe(&self, operator: &Operator) -> Answer<v1::DescribeReply> {
        let site = self.site();
        let limits = self.limits(&site, operator)?;
        let host = site.host(&limits);
        let inspection = site.inspect(&limits).await;
        let inspection =
            inspection.map_err(|error| Refusal::from_error(Reason::SiteNotReady, &*error))?;
        let description = SiteDescription {
            site: host.site.clone(),
            fed_version: env!("CARGO_PKG_VERSION").to_owned(),
            pools: site.allowance(operator, &limits).offers(&host.pools),
            python: inspection.environment,
        };
        Ok(v1::DescribeReply {
            next_fingerprint: self.next_fingerprint(),
            ..convert::description_to_wire(description)
        })
    }

    pub(super) async fn prepare(
        &self,
        operator: &Operator,
        message: v1::PrepareRequest,
    ) -> Answer<v1::PrepareReply> {
        let site = self.site();
        let limits = self.limits(&site, operator)?;
        let record = record(message, operator).map_err(invalid)?;
        let allowance = site.allowance(operator, &limits);
        allowance.lease(record.lease)?;
        let host = site.host(&limits);
        let federation = self.registry.prepare(record, host, &allowance)?;
        let ready = federation.call(Call::Prepare).await?;
        // An operator who was removed meanwhile: what they ran was ended before this was there.
        let known = self.roster.knows(operator.id());
        if !known.map_err(|error| Refusal::from_error(Reason::Internal, &error))? {
            let message = "the site has removed this operator";
            let end = |answer| Call::End(message.to_owned(), answer);
            federation.call(end).await?;
            return Err(Refusal::new(Reason::NotAllowed, message));
        }
        Ok(v1::PrepareReply {
            public_key: ready.public_key,
            udp_port: u32::from(ready.udp_port),
            fingerprint: ready.fingerprint,
            addresses: ready.addresses.iter().map(ToString::to_string).collect(),
        })
    }

    pub(super) async fn connect(
        &self,
        operator: &Operator,
        message: v1::ConnectRequest,
    ) -> Answer<v1::ConnectReply> {
        let (_, federation) = self.federation(operator, &message.federation)?;
        let peers = convert::peers(message.peers).map_err(invalid)?;
        federation
            .call(|answer| Call::Connect(peers, answer))
            .await?;
        Ok(v1::ConnectReply {})
    }

    pub(super) async fn probe(
        &self,
        operator: &Operator,
        message: v1::ProbeRequest,
    ) -> Answer<v1::ProbeReply> {
        let (_, federation) = self.federation(operator, &message.federation)?;
        let report = federation.call(Call::Report).await?;
        Ok(convert::mesh_to_wire(report.mesh))
    }

    pub(super) async fn start(
        &self,
        operator: &Operator,
        message: v1::StartRequest,
    ) -> Answer<v1::StartReply> {
        let (id, federation) = self.federation(operator, &message.federation)?;
        let pools = convert::pool_sizes(message.pools).map_err(invalid)?;
        let reservation = self.reserve(operator, id, &pools)?;
        let (scheduler, all_pools) = (message.scheduler, message.all_pools);
        let call = |answer| Call::Start {
            scheduler,
            pools,
            all_pools,
            reservation,
            answer,
        };
        let workers = federation.call(call).await?;
        Ok(v1::StartReply { workers })
    }

    pub(super) async fn scale(
        &self,
        operator: &Operator,
        message: v1::ScaleRequest,
    ) -> Answer<v1::ScaleReply> {
        let (id, federation) = self.federation(operator, &message.federation)?;
        let size = message.pool.unwrap_or_default();
        let pool = convert::parse("pool", &size.pool).map_err(invalid)?;
        let sizes = [(pool, size.workers)];
        let reservation = self.reserve(operator, id, &sizes)?;
        let [(pool, workers)] = sizes;
        let call = |answer| Call::Scale {
            pool,
            workers,
            reservation,
            answer,
        };
        let workers = federation.call(call).await?;
        Ok(v1::ScaleReply { workers })
    }

    /// Reserves what a call wants, as far as the operator may have it.
    fn reserve(
        &self,
        operator: &Operator,
        id: FederationId,
        sizes: &[(PoolName, u32)],
    ) -> Answer<Reservation> {
        let site = self.site();
        let limits = self.limits(&site, operator)?;
        let allowance = site.allowance(operator, &limits);
        self.registry.accounts.reserve(id, sizes, &allowance)
    }

    pub(super) async fn stop(
        &self,
        operator: &Operator,
        message: v1::StopRequest,
    ) -> Answer<v1::StopReply> {
        let (_, federation) = self.federation(operator, &message.federation)?;
        let call = |answer| Call::Stop(message.workers, answer);
        let workers = federation.call(call).await?;
        Ok(v1::StopReply { workers })
    }

    pub(super) fn watch(
        &self,
        operator: &Operator,
        message: &v1::WatchRequest,
    ) -> Answer<broadcast::Receiver<Happening>> {
        let (_, federation) = self.federation(operator, &message.federation)?;
        Ok(federation.watch())
    }

    pub(super) async fn logs(
        &self,
        operator: &Operator,
        message: v1::LogsRequest,
    ) -> Answer<Vec<(String, String)>> {
        let (_, federation) = self.federation(operator, &message.federation)?;
        let tail = usize::try_from(message.tail).unwrap_or(usize::MAX);
        federation.call(|answer| Call::Logs(tail, answer)).await
    }

    pub(super) async fn renew(
        &self,
        operator: &Operator,
        message: v1::RenewRequest,
    ) -> Answer<v1::RenewReply> {
        let (id, federation) = self.federation(operator, &message.federation)?;
        let site = self.site();
        let limits = self.limits(&site, operator)?;
        let (age, lease) = self.registry.life(id);
        site.allowance(operator, &limits).renewal(age, lease)?;
        let lease = federation.call(Call::Renew).await?;
        Ok(v1::RenewReply {
            lease_seconds: lease.as_secs(),
            next_fingerprint: self.next_fingerprint(),
        })
    }

    pub(super) async fn leave(
        &self,
        operator: &Operator,
        message: v1::LeaveRequest,
    ) -> Answer<v1::LeaveReply> {
        let id = convert::parse("federation", &message.federation).map_err(invalid)?;
        // One that is not there has been left: the call is idempotent.
        if let Ok(federation) = self.registry.find(id, operator.id()) {
            let reason = "the operator ended it".to_owned();
            let left = federation.call(|answer| Call::End(reason, answer)).await;
            if let Err(refusal) = left
                && refusal.reason != Reason::UnknownFederation
            {
                return Err(refusal);
            }
        }
        Ok(v1::LeaveReply {})
    }
}

fn refused(error: RosterError) -> Refusal {
    let reason = match error {
        RosterError::Spent => Reason::InvitationSpent,
        RosterError::Taken
        | RosterError::OtherName { .. }
        | RosterError::Replaced { .. }
        | RosterError::TooMany { .. }
        | RosterError::Removed { .. } => Reason::NotAllowed,
        RosterError::State(_) | RosterError::Unknown { .. } | RosterError::Ambiguous { .. } => {
            Reason::Internal
        }
    };
    Refusal::from_error(reason, &error)
}

/// The key of a certificate in a message, which the peer has proved to hold.
fn proved(
    certificate: Vec<u8>,
    purpose: Purpose<'_>,
    peer: &PeerIdentity,
    proof: &[u8],
) -> Answer<Fingerprint> {
    possession::check(&certificate.into(), purpose, &peer.binding, proof).map_err(|error| {
        let reason = match error {
            PossessionError::Certificate(_) => Reason::InvalidRequest,
            PossessionError::Unproven { .. } => Reason::UnprovenKey,
        };
        Refusal::from_error(reason, &error)
    })
}

fn invalid(error: Invalid) -> Refusal {
    Refusal::from_error(Reason::InvalidRequest, &error)
}

fn record(message: v1::PrepareRequest, operator: &Operator) -> Result<Record, Invalid> {
    let lease = Leases::new(Duration::from_secs(message.lease_seconds)).federation();
    Ok(Record {
        id: convert::parse("federation", &message.federation)?,
        name: convert::parse("name", &message.name)?,
        operator: operator.id().to_owned(),
        member: convert::member_id("site_number", message.site_number)?,
        members: convert::members(message.members)?,
        lease,
        began: seconds_since_boot(),
        scheduler: None,
        all_pools: Vec::new(),
        pools: Vec::new(),
        crew: Crew::default(),
    })
}
