//! Changing the operator's key without losing an enrolment.
//!
//! Every site is told the new key over a connection with the old one. Only when all know it is it
//! used; then the sites are told how long the old one still counts.

use std::time::Duration;

use fed_core::SiteName;
use fed_rpc::client::ConnectError;
use fed_rpc::{Fingerprint, Identity};
use thiserror::Error;

use super::inbound::Inbound;
use super::site::{SiteClient, SiteError};
use super::state::{OperatorState, Site};
use crate::state::{Lock, StateError};

/// How long the old key counts at a site that is not told otherwise.
const AT_MOST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why the operator's key was not changed.
#[derive(Debug, Error)]
pub enum RotateError {
    /// A key cannot be read or written.
    #[error(transparent)]
    Identity(#[from] fed_rpc::identity::StoreError),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// It is being changed.
    #[error("another `fed site rotate` runs; wait for its end")]
    Busy,
    /// Some sites do not know the new key.
    #[error(
        "the old key stays in use, because these sites could not be told of the new one: {}; run \
         `fed site rotate` again when they answer, or forget them with `fed site remove`",
        .0.iter().map(|(site, error)| format!("{site} ({error})")).collect::<Vec<_>>().join(", ")
    )]
    Untold(Vec<(SiteName, SiteError)>),
}

/// What [`rotate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The new key.
    pub fingerprint: Fingerprint,
    /// Sites where the old key counts for up to 30 days, because they did not answer at the end.
    pub lingering: Vec<SiteName>,
}

/// Makes a new key, has every site take it, and uses it from then on. The old key counts for
/// `keep`, for federations that are up. When it was cut off, it can be called again.
///
/// # Errors
/// See [`RotateError`]; the old key is in use then.
pub async fn rotate(state: &OperatorState, keep: Duration) -> Result<Rotated, RotateError> {
    let lock = Lock::try_take(&state.path().join("rotation.lock"))?;
    let _lock = lock.ok_or(RotateError::Busy)?;
    let (old, new) = (state.identity()?, state.next_identity()?);
    let sites = state.sites()?;
    let inbound = &Inbound::of(state);
    let tell = |(name, site): (&SiteName, &Site)| {
        let (name, site, old, new) = (name.clone(), site.clone(), old.clone(), new.clone());
        async move {
            let told = tell(state, inbound, &name, &site, &old, &new).await;
            told.err().map(|error| (name, error))
        }
    };
    let untold: Vec<_> = futures::future::join_all(sites.iter().map(tell)).await;
    let untold: Vec<_> = untold.into_iter().flatten().collect();
    if !untold.is_empty() {
        return Err(RotateError::Untold(untold));
    }
    state.change_identity()?;
    let finish = |(name, site): (&SiteName, &Site)| {
        let (name, site, new) = (name.clone(), site.clone(), new.clone());
        async move {
            let connected = SiteClient::connect(state, inbound, name.clone(), &site, &new).await;
            let ended = match connected {
                Ok(client) => client.rotate(&new, keep).await,
                Err(error) => Err(error),
            };
            ended.err().map(|_| name)
        }
    };
    let lingering = futures::future::join_all(sites.iter().map(finish)).await;
    Ok(Rotated {
        fingerprint: new.fingerprint(),
        lingering: lingering.into_iter().flatten().collect(),
    })
}

/// Has one site take the new key. One that was told before may have let go of the old one.
async fn tell(
    state: &OperatorState,
    inbound: &Inbound,
    name: &SiteName,
    site: &Site,
    old: &Identity,
    new: &Identity,
) -> Result<(), SiteError> {
    match SiteClient::connect(state, inbound, name.clone(), site, old).await {
        Ok(client) => client.rotate(new, AT_MOST).await,
        Err(refused @ SiteError::Connect(ConnectError::Refused { .. })) => {
            let known = SiteClient::connect(state, inbound, name.clone(), site, new).await;
            known.map(drop).map_err(|_| refused)
        }
        Err(error) => Err(error),
    }
}
