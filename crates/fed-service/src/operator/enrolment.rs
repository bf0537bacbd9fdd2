//! Redeeming an invitation.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use fed_core::{Leases, NameError, SiteName};
use fed_rpc::client::ConnectError;
use fed_rpc::possession::{self, Purpose};
use fed_rpc::status::CallError;
use fed_rpc::tls::Pins;
use fed_rpc::{Invitation, v1};
use thiserror::Error;

use super::inbound::Inbound;
use super::site::reach;
use super::state::{OperatorState, Site, Way};
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
    /// The agent dials, and nothing says where it finds this host.
    #[error(
        "the agent of {site} dials its operators ({}); say with --listen which port of this host that is, such as --listen [::]:4789", dials.join(", ")
    )]
    Where {
        /// The site.
        site: SiteName,
        /// Whom it dials.
        dials: Vec<String>,
    },
    /// The agent is to be awaited, and does not dial.
    #[error(
        "the agent of {site} does not dial its operators, so --listen waits in vain: leave it out, to reach the agent at {address}, or have the site name this host (`fed agent invite --dial HOST:PORT`, and `dial` in its agent.toml)"
    )]
    NoDial {
        /// The site.
        site: SiteName,
        /// Where its agent listens.
        address: String,
    },
    /// Another agent is awaited at the same port of another address.
    #[error(
        "the agent of {other} is awaited at {own} already, and one port has one address: await that of {site} there too (`--listen {own}`), or at another port than {listen}"
    )]
    OtherListen {
        /// The site.
        site: SiteName,
        /// Where its agent was to be awaited.
        listen: String,
        /// A site that was added before.
        other: SiteName,
        /// Where that one's agent is awaited.
        own: String,
    },
    /// The agent does not know the invitation, and it has not expired by this host's clock.
    #[error(
        "{address} does not take this invitation: it has been used, or is too old by the site's clock{}; ask the site for a new one (`fed agent invite`)", if *.known { " (`fed site list` has this site already)" } else { "" }
    )]
    Spent {
        /// Where the agent is reached; the site's name where it dials.
        address: String,
        /// Whether the site is recorded with the same agent.
        known: bool,
    },
    /// The agent could not be reached.
    #[error("{address}: {source}")]
    Connect {
        /// Where the agent is reached; the site's name where it dials.
        address: String,
        /// Why not.
        source: ConnectError,
    },
    /// The agent refused.
    #[error("{address}: {source}")]
    Call {
        /// Where the agent is reached; the site's name where it dials.
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

/// Redeems an invitation and records the site. Returns what was recorded. With `listen`
/// (`address:port`) the agent is awaited there; without, as the invitation says.
///
/// # Errors
/// See [`EnrolError`]. The invitation is spent only if the agent accepted it.
pub async fn enrol(
    state: &OperatorState,
    given: &SiteName,
    invitation: &Invitation,
    operator_name: &str,
    listen: Option<&str>,
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
    let way = way(&invited, invitation, listen)?;
    if let Way::Listen(listen) = &way {
        one_address(&invited, listen, &state.sites()?)?;
    }
    let address = match &way {
        Way::Address(address) => address.clone(),
        Way::Listen(_) => invited.to_string(),
    };
    let pins = Pins::new([invitation.agent()]);
    let inbound = Inbound::of(state);
    let connected = reach(&inbound, &invited, &way, invitation.identity(), &pins).await;
    let (mut connected, _) = match connected {
        Ok(connected) => connected,
        Err(ConnectError::Refused { .. }) => {
            let agent = invitation.agent().to_string();
            let known = state
                .sites()?
                .get(&invited)
                .map(|site| site.fingerprint == agent);
            let known = known.unwrap_or_default();
            return Err(EnrolError::Spent { address, known });
        }
        Err(source) => return Err(EnrolError::Connect { address, source }),
    };
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
        way,
        fingerprint: invitation.agent().to_string(),
        next: Some(enrolled.into_inner().next_fingerprint).filter(|next| !next.is_empty()),
    };
    state.add_site(invited, site.clone())?;
    Ok(site)
}

/// Who is to open connections: as the operator says, else as the invitation does.
fn way(site: &SiteName, invitation: &Invitation, listen: Option<&str>) -> Result<Way, EnrolError> {
    let dials = invitation.dials();
    match (listen, invitation.address()) {
        (Some(_), Some(address)) if dials.is_empty() => {
            return Err(EnrolError::NoDial {
                site: site.clone(),
                address: address.to_owned(),
            });
        }
        (Some(listen), _) => return Ok(Way::Listen(listen.to_owned())),
        (None, Some(address)) => return Ok(Way::Address(address.to_owned())),
        (None, None) => {}
    }
    let ports: BTreeSet<&str> = dials
        .iter()
        .filter_map(|address| Some(address.rsplit_once(':')?.1))
        .collect();
    match ports.first() {
        Some(port) if ports.len() == 1 => Ok(Way::Listen(format!("[::]:{port}"))),
        _ => Err(EnrolError::Where {
            site: site.clone(),
            dials: dials.to_vec(),
        }),
    }
}

/// Refuses to listen on one port at two addresses: commands that run at a time share a port, and one
/// of them has it at one address.
fn one_address(
    site: &SiteName,
    listen: &str,
    sites: &BTreeMap<SiteName, Site>,
) -> Result<(), EnrolError> {
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
    for (other, known) in sites {
        if let Way::Listen(own) = &known.way
            && other != site
            && own != listen
            && port(own) == port(listen)
        {
            return Err(EnrolError::OtherListen {
                site: site.clone(),
                listen: listen.to_owned(),
                other: other.clone(),
                own: own.clone(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fed_rpc::Identity;

    use super::*;

    fn invitation(address: Option<&str>, dials: &[&str]) -> Invitation {
        let agent = Identity::generate("ecmwf").unwrap().fingerprint();
        let dials: Vec<String> = dials.iter().map(ToString::to_string).collect();
        Invitation::generate("ecmwf", address, &dials, agent, u64::MAX).unwrap()
    }

    #[test]
    fn an_agent_is_awaited_where_it_dials() {
        let site = "ecmwf".parse().unwrap();
        let way = |address, dials: &[&str], listen| {
            way(&site, &invitation(address, dials), listen).map(|way| way.to_string())
        };
        let address = Some("agent:4788");
        assert_eq!(way(address, &[], None).unwrap(), "agent:4788");
        assert_eq!(
            way(None, &["me:4789"], None).unwrap(),
            "dials us; we listen at [::]:4789"
        );
        let two = ["me:4789", "[2001:db8::1]:4789"];
        assert_eq!(
            way(None, &two, None).unwrap(),
            "dials us; we listen at [::]:4789"
        );
        // It may be called: then it is.
        assert_eq!(way(address, &["me:4789"], None).unwrap(), "agent:4788");
        for (address, dials) in [(address, &two[..]), (None, &two)] {
            let asked = way(address, dials, Some("192.0.2.1:443")).unwrap();
            assert_eq!(asked, "dials us; we listen at 192.0.2.1:443");
        }
        // It would be awaited in vain.
        let error = way(address, &[], Some("192.0.2.1:443")).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("does not dial"), "{error}");
        assert!(error.contains("agent:4788"), "{error}");
        let error = way(None, &["me:4789", "other:4790"], None).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("me:4789, other:4790"), "{error}");
        assert!(error.contains("--listen"), "{error}");
    }

    #[test]
    fn a_port_has_one_address() {
        let site = |way| Site {
            way,
            fingerprint: String::new(),
            next: None,
        };
        let sites = BTreeMap::from([
            ("a".parse().unwrap(), site(Way::Listen("[::]:4789".into()))),
            ("b".parse().unwrap(), site(Way::Address("host:4790".into()))),
        ]);
        let new = "c".parse().unwrap();
        for fits in ["[::]:4789", "192.0.2.1:4790"] {
            one_address(&new, fits, &sites).unwrap();
        }
        let error = one_address(&new, "192.0.2.1:4789", &sites).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("the agent of a is awaited at [::]:4789"),
            "{text}"
        );
        // Its own record is replaced.
        one_address(&"a".parse().unwrap(), "192.0.2.1:4789", &sites).unwrap();
    }
}
