//! The plan of a federation: what the operator asked for, met with what the sites offer.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    Agreement, FederationId, FederationName, Leases, PoolName, PoolOffer, PythonEnvironment,
    SiteDescription, SiteName, VersionTable, nearest,
};

/// Number of a member within its federation: 0 is the operator, sites count from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(u16);

impl MemberId {
    /// The operator's host, where the scheduler runs.
    pub const OPERATOR: Self = Self(0);

    /// The site with this number.
    pub const fn site(number: u16) -> Self {
        Self(number)
    }

    /// Returns the number, which is also the fourth group of the member's addresses.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for MemberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "#{}", self.0)
    }
}

/// A member of a federation by number and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub id: MemberId,
    /// The site's name, or `operator`.
    pub name: String,
}

/// A `--workers` option: so many workers at a pool, or at each pool of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCount {
    /// Name of a pool or of a site.
    pub place: String,
    /// Workers per pool.
    pub workers: u32,
}

/// What the operator asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Identity and address block of the new federation, drawn at random.
    pub id: FederationId,
    /// What the operator calls it.
    pub name: FederationName,
    /// Sites in the order of the command line, which numbers them.
    pub sites: Vec<SiteName>,
    /// Numbers of workers that differ from the sites' defaults.
    pub workers: Vec<WorkerCount>,
    /// Leases and timeouts.
    pub leases: Leases,
    /// Version of this fed, which the agents must share.
    pub fed_version: String,
    /// The interpreter of the scheduler.
    pub python: PythonEnvironment,
}

/// A federation that can be built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Identity and address block.
    pub id: FederationId,
    /// What the operator calls it.
    pub name: FederationName,
    /// Leases and timeouts.
    pub leases: Leases,
    /// The sites, by ascending number.
    pub sites: Vec<SitePlan>,
    /// The versions that were compared.
    pub versions: VersionTable,
}

/// One site of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SitePlan {
    /// Its number.
    pub member: MemberId,
    /// Its name.
    pub site: SiteName,
    /// Its pools, in the order the site names them.
    pub pools: Vec<PoolPlan>,
}

/// One pool of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPlan {
    /// The pool as its site offers it.
    pub offer: PoolOffer,
    /// Workers to start.
    pub workers: u32,
}

/// Why no federation can be made of a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// No site was named.
    #[error("no site named; `fed site list` shows the sites that are enrolled")]
    NoSites,
    /// A site was named twice.
    #[error("site {0} is named twice; name each site once")]
    RepeatedSite(SiteName),
    /// A site answered with another name.
    #[error(
        "the agent enrolled as {expected} calls itself {found}; `fed site remove {expected}` and add it again under its own name"
    )]
    OtherName {
        /// Name in the operator's inventory.
        expected: SiteName,
        /// Name in the site's answer.
        found: SiteName,
    },
    /// A site offers no pool.
    #[error("site {0} offers no pool; its agent.toml needs a [[pool]] table")]
    NoPools(SiteName),
    /// Two sites offer pools of one name.
    #[error(
        "pool {pool} is offered by {first} and by {second}; rename one of them in its agent.toml"
    )]
    RepeatedPool {
        /// The name.
        pool: PoolName,
        /// The site that offers it first.
        first: SiteName,
        /// The other site.
        second: SiteName,
    },
    /// `--workers` names neither a pool nor a site.
    #[error("--workers {place}={workers}: no pool or site of this federation is called {place}{}", hint(.nearest))]
    UnknownPlace {
        /// What was given.
        place: String,
        /// The number that was given.
        workers: u32,
        /// The name that may have been meant.
        nearest: Option<String>,
    },
    /// More workers than the site allows.
    #[error("{workers} workers asked of pool {pool}, but {site} allows {max}; ask for fewer")]
    TooManyWorkers {
        /// The pool.
        pool: PoolName,
        /// Its site.
        site: SiteName,
        /// What was asked for.
        workers: u32,
        /// What the site allows.
        max: u32,
    },
    /// A site runs another fed.
    #[error(
        "site {site} runs fed {found}, this is fed {expected}; install the same version on both"
    )]
    FedVersion {
        /// The site.
        site: SiteName,
        /// The operator's version.
        expected: String,
        /// The site's version.
        found: String,
    },
    /// The Python environments cannot work together.
    #[error(
        "the Python environments differ:\n{0}\ninstall the same Python minor version, dask and distributed everywhere"
    )]
    Versions(VersionTable),
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

impl Request {
    /// Checks what can be checked before any site is asked.
    ///
    /// # Errors
    /// See [`Self::check_sites`].
    pub fn check(&self) -> Result<(), PlanError> {
        Self::check_sites(&self.sites)
    }

    /// Checks the names of sites, before anything else is known.
    ///
    /// # Errors
    /// [`PlanError::NoSites`] and [`PlanError::RepeatedSite`].
    pub fn check_sites(sites: &[SiteName]) -> Result<(), PlanError> {
        if sites.is_empty() {
            return Err(PlanError::NoSites);
        }
        for (index, site) in sites.iter().enumerate() {
            if sites[..index].contains(site) {
                return Err(PlanError::RepeatedSite(site.clone()));
            }
        }
        Ok(())
    }

    /// The sites with the numbers they get.
    pub fn members(&self) -> impl Iterator<Item = (MemberId, &SiteName)> {
        (1..).map(MemberId::site).zip(&self.sites)
    }
}

impl Plan {
    /// Meets a request with what the sites answered.
    ///
    /// # Errors
    /// See [`PlanError`]: nothing has been started when one is returned.
    ///
    /// # Panics
    /// If a site of the request has no description.
    pub fn new(
        request: &Request,
        descriptions: &BTreeMap<SiteName, SiteDescription>,
    ) -> Result<Self, PlanError> {
        request.check()?;
        check_fed_versions(request, descriptions)?;
        let pythons = descriptions
            .iter()
            .map(|(name, site)| (name.clone(), &site.python))
            .collect();
        let versions = VersionTable::compare(&request.python, &pythons);
        if versions.agreement() == Agreement::Stops {
            return Err(PlanError::Versions(versions));
        }
        let mut sites = Vec::new();
        for (member, site) in request.members() {
            let description = descriptions
                .get(site)
                .expect("every site of the request answered");
            sites.push(plan_site(request, member, site, description)?);
        }
        check_pools(&sites)?;
        check_places(request, &sites)?;
        Ok(Self {
            id: request.id,
            name: request.name.clone(),
            leases: request.leases,
            sites,
            versions,
        })
    }

    /// Operator and sites, by ascending number.
    pub fn members(&self) -> Vec<Member> {
        let operator = Member {
            id: MemberId::OPERATOR,
            name: "operator".to_owned(),
        };
        let sites = self.sites.iter().map(|site| Member {
            id: site.member,
            name: site.site.to_string(),
        });
        std::iter::once(operator).chain(sites).collect()
    }

    /// All pools, in the order of their sites.
    pub fn pools(&self) -> impl Iterator<Item = (&SitePlan, &PoolPlan)> {
        self.sites
            .iter()
            .flat_map(|site| site.pools.iter().map(move |pool| (site, pool)))
    }

    /// Number of workers that the plan starts.
    pub fn workers(&self) -> u32 {
        self.pools().map(|(_, pool)| pool.workers).sum()
    }
}

fn check_fed_versions(
    request: &Request,
    descriptions: &BTreeMap<SiteName, SiteDescription>,
) -> Result<(), PlanError> {
    match descriptions
        .iter()
        .find(|(_, site)| site.fed_version != request.fed_version)
    {
        None => Ok(()),
        Some((name, site)) => Err(PlanError::FedVersion {
            site: name.clone(),
            expected: request.fed_version.clone(),
            found: site.fed_version.clone(),
        }),
    }
}

fn plan_site(
    request: &Request,
    member: MemberId,
    site: &SiteName,
    description: &SiteDescription,
) -> Result<SitePlan, PlanError> {
    if description.site != *site {
        let found = description.site.clone();
        return Err(PlanError::OtherName {
            expected: site.clone(),
            found,
        });
    }
    if description.pools.is_empty() {
        return Err(PlanError::NoPools(site.clone()));
    }
    let pools = description
        .pools
        .iter()
        .map(|offer| {
            let workers = workers_of(request, site, offer);
            if workers > offer.max_workers {
                return Err(PlanError::TooManyWorkers {
                    pool: offer.name.clone(),
                    site: site.clone(),
                    workers,
                    max: offer.max_workers,
                });
            }
            Ok(PoolPlan {
                offer: offer.clone(),
                workers,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(SitePlan {
        member,
        site: site.clone(),
        pools,
    })
}

/// The last option that names the pool counts, then the last that names its site, then the default.
fn workers_of(request: &Request, site: &SiteName, offer: &PoolOffer) -> u32 {
    let named = |name: &str| {
        request
            .workers
            .iter()
            .rev()
            .find(|count| count.place == name)
            .map(|count| count.workers)
    };
    named(offer.name.as_str())
        .or_else(|| named(site.as_str()))
        .unwrap_or(offer.default_workers)
}

fn check_pools(sites: &[SitePlan]) -> Result<(), PlanError> {
    let mut seen: BTreeMap<&PoolName, &SiteName> = BTreeMap::new();
    for site in sites {
        for pool in &site.pools {
            if let Some(first) = seen.insert(&pool.offer.name, &site.site) {
                return Err(PlanError::RepeatedPool {
                    pool: pool.offer.name.clone(),
                    first: first.clone(),
                    second: site.site.clone(),
                });
            }
        }
    }
    Ok(())
}

fn check_places(request: &Request, sites: &[SitePlan]) -> Result<(), PlanError> {
    let places: Vec<&str> = sites
        .iter()
        .flat_map(|site| {
            site.pools
                .iter()
                .map(|pool| pool.offer.name.as_str())
                .chain([site.site.as_str()])
        })
        .collect();
    match request
        .workers
        .iter()
        .find(|count| !places.contains(&count.place.as_str()))
    {
        None => Ok(()),
        Some(count) => Err(PlanError::UnknownPlace {
            place: count.place.clone(),
            workers: count.workers,
            nearest: nearest(&count.place, places.iter().copied()).map(str::to_owned),
        }),
    }
}

#[cfg(test)]
pub(crate) mod tests;
