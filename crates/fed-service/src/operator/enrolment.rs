//! Redeeming an invitation.

use std::time::SystemTime;

use fed_core::{Leases, NameError, SiteName};
use fed_rpc::client::{self, ConnectError};
use fed_rpc::possession::{self, Purpose};
use fed_rpc::status::CallError;
use fed_rpc::tls::Pins;
use fed_rpc::{Invitation, v1};
use thiserror::Error;

use super::state::{OperatorState, Site};
use crate::state::StateError;

/// Why a site was not added.
#[derive(Debug, Error)]
pub enum EnrolError {
    /// The invitation is too old.
    #[error("this invitation has expired; ask the site for a new one (`fed agent invite`)")]
    Expired,
    /// The name in the invitation is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The site goes by another name.
    #[error("this invitation is from site {invited}, not {given}; run `fed site add {invited} …`")]
    OtherSite {
        /// What was asked for.
        given: SiteName,
        /// Who invited.
        invited: SiteName,
    },
    /// The agent could not be reached.
    #[error("{address}: {source}")]
    Connect {
        /// The agent's address, from the invitation.
        address: String,
        /// Why not.
        source: ConnectError,
    },
    /// The agent refused.
    #[error("{address}: {source}")]
    Call {
        /// The agent's address, from the invitation.
        address: String,
        /// Why.
        source: CallError,
    },
    /// The operator's identity cannot be used.
    #[error(transparent)]
    Identity(#[from] fed_rpc::identity::StoreError),
    /// The site could not be recorded.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Redeems an invitation and records the site. Returns what was recorded.
///
/// # Errors
/// See [`EnrolError`]. The invitation is spent only if the agent accepted it.
pub async fn enrol(
    state: &OperatorState,
    given: &SiteName,
    invitation: &Invitation,
    operator_name: &str,
) -> Result<Site, EnrolError> {
    let invited: SiteName = invitation.site().parse()?;
    if invited != *given {
        return Err(EnrolError::OtherSite {
            given: given.clone(),
            invited,
        });
    }
    if invitation.has_expired(SystemTime::now()) {
        return Err(EnrolError::Expired);
    }
    let identity = state.identity()?;
    let address = invitation.address().to_owned();
    let connected = client::connect_to_any(
        &address,
        invitation.identity(),
        &Pins::new([invitation.agent()]),
        Leases::CONNECT,
    )
    .await;
    let mut connected = connected.map_err(|source| EnrolError::Connect {
        address: address.clone(),
        source,
    })?;
    let proof = possession::prove(&identity, Purpose::Enrol(operator_name), &connected.binding);
    let mut request = tonic::Request::new(v1::EnrolRequest {
        operator_certificate: identity.certificate().to_vec(),
        operator_name: operator_name.to_owned(),
        proof,
    });
    request.set_timeout(Leases::CALL);
    let enrolled = connected.agent.enrol(request).await;
    let enrolled = enrolled.map_err(|status| EnrolError::Call {
        address: address.clone(),
        source: status.into(),
    })?;
    let site = Site {
        address,
        fingerprint: invitation.agent().to_string(),
        next: Some(enrolled.into_inner().next_fingerprint).filter(|next| !next.is_empty()),
    };
    state.add_site(invited, site.clone())?;
    Ok(site)
}
