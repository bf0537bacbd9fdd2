//! What an operator may have at this site: the limits of agent.toml, and who has used how much.
//!
//! Does no IO: the service asks here before it passes a call on.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use fed_core::{FederationId, PoolName, PoolOffer, SiteName};
use fed_rpc::status::{Reason, Refusal};
use serde::{Deserialize, Deserializer};

use super::roster::Operator;

/// Limits for one operator. What is absent is not limited.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Most workers at a time, over all federations of the operator.
    #[serde(default)]
    pub workers: Option<u32>,
    /// Most cores (threads of workers) at a time, over all federations of the operator.
    #[serde(default)]
    pub cores: Option<u32>,
    /// Most memory (limits of workers) at a time, over all federations of the operator.
    #[serde(default)]
    pub memory: Option<ByteSize>,
    /// The pools that may be used.
    #[serde(default)]
    pub pools: Option<Vec<PoolName>>,
    /// Longest lease.
    #[serde(default, deserialize_with = "duration")]
    pub lease: Option<Duration>,
    /// Longest life of a federation, however often its lease is renewed.
    #[serde(default, deserialize_with = "duration")]
    pub lifetime: Option<Duration>,
    /// Interpreter of the operator's workers, instead of the site's.
    #[serde(default)]
    pub python: Option<String>,
    /// Shell commands before that interpreter, instead of the site's.
    #[serde(default)]
    pub prologue: Option<String>,
}

/// An `[[operator]]` table: the limits of one operator, by name or by key.
///
/// Unknown keys are refused where the file is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct OperatorTable {
    /// What the operator was enrolled as.
    #[serde(default)]
    pub name: Option<String>,
    /// The operator's key.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// What differs from `[policy]`.
    #[serde(flatten)]
    pub limits: Limits,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = humantime::parse_duration(&text);
    parsed.map(Some).map_err(|error| {
        serde::de::Error::custom(format!("{text:?} is no duration ({error}); write \"8h\""))
    })
}

impl Limits {
    /// These limits, and `general` where they say nothing.
    fn or(&self, general: &Self) -> Self {
        // Each prologue belongs to its interpreter.
        let (python, prologue) = match (&self.python, &self.prologue) {
            (None, None) => (general.python.clone(), general.prologue.clone()),
            own => (own.0.clone(), own.1.clone()),
        };
        Self {
            workers: self.workers.or(general.workers),
            cores: self.cores.or(general.cores),
            memory: self.memory.or(general.memory),
            pools: self.pools.clone().or_else(|| general.pools.clone()),
            lease: self.lease.or(general.lease),
            lifetime: self.lifetime.or(general.lifetime),
            python,
            prologue,
        }
    }
}

/// The limits of everybody, and those of some.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Policy {
    pub(super) general: Limits,
    pub(super) operators: Vec<OperatorTable>,
}

impl Policy {
    /// The limits of one operator: a table with the operator's key counts, else one with the name
    /// (if it is not one that the operator chose), else the general ones.
    pub(super) fn of(&self, operator: &Operator) -> Limits {
        let is_key = |key: &str| key == operator.fingerprint || key == operator.id();
        let mut tables = self.operators.iter();
        let by_key = tables.find(|table| table.fingerprint.as_deref().is_some_and(is_key));
        let is_name = |table: &&OperatorTable| {
            table.fingerprint.is_none() && table.name.as_ref() == Some(&operator.name)
        };
        let by_name = || {
            let named = operator.named_by_site.then_some(&self.operators)?;
            named.iter().find(is_name)
        };
        match by_key.or_else(by_name) {
            Some(table) => table.limits.or(&self.general),
            None => self.general.clone(),
        }
    }
}

/// One operator's limits, with the names that a refusal tells.
#[derive(Clone, Debug)]
pub(super) struct Allowance<'a> {
    pub(super) site: &'a SiteName,
    pub(super) operator: &'a str,
    pub(super) limits: &'a Limits,
}

impl Allowance<'_> {
    /// The pools of the site that the operator may use.
    pub(super) fn offers(&self, offers: &[PoolOffer]) -> Vec<PoolOffer> {
        let allowed = |offer: &&PoolOffer| {
            let pools = self.limits.pools.as_ref();
            pools.is_none_or(|pools| pools.contains(&offer.name))
        };
        let most = |offer: &PoolOffer| {
            let by_cores = self.limits.cores.map(|cores| cores / offer.threads.max(1));
            let by_memory = self.limits.memory.map(|memory| {
                u32::try_from(memory.as_u64() / offer.memory_bytes.max(1)).unwrap_or(u32::MAX)
            });
            let limits = [
                Some(offer.max_workers),
                self.limits.workers,
                by_cores,
                by_memory,
            ];
            limits.into_iter().flatten().min().unwrap_or(u32::MAX)
        };
        let offers = offers.iter().filter(allowed).cloned();
        offers
            .map(|mut offer| {
                offer.max_workers = most(&offer);
                offer.default_workers = offer.default_workers.min(offer.max_workers);
                offer
            })
            .collect()
    }

    /// Refuses a lease that is too long.
    pub(super) fn lease(&self, asked: Duration) -> Result<(), Refusal> {
        let limits = [
            (self.limits.lease, "lease"),
            (self.limits.lifetime, "lifetime"),
        ];
        let shortest = limits
            .into_iter()
            .filter_map(|(most, key)| Some((most?, key)))
            .min();
        match shortest {
            Some((most, key)) if asked > most => Err(self.exceeded(format!(
                "leases of at most {} ({key}), and {} was asked for; `fed up --lease {0}` asks \
                 for less",
                humantime::format_duration(most),
                humantime::format_duration(asked)
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses to extend the lease of a federation beyond its life; `age` is how long it has run.
    pub(super) fn renewal(&self, age: Duration, lease: Duration) -> Result<(), Refusal> {
        match self.limits.lifetime {
            Some(most) if age + lease > most => Err(self.exceeded(format!(
                "federations that live for at most {} (lifetime), and this one nears its end",
                humantime::format_duration(most)
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a pool that the operator may not use.
    pub(super) fn pool(&self, pool: &PoolName) -> Result<(), Refusal> {
        match &self.limits.pools {
            Some(pools) if !pools.contains(pool) => {
                let names: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
                let refusal = self.exceeded(format!(
                    "the pools {} (pools), and not {pool}",
                    names.join(", ")
                ));
                Err(Refusal::new(Reason::NotAllowed, refusal.message))
            }
            _ => Ok(()),
        }
    }

    fn total(&self, before: Usage, after: Usage) -> Result<(), Refusal> {
        let refuse = |most: String, what: &str, before: String, after: String| {
            Err(self.exceeded(format!(
                "{most} {what} at a time, over all federations; {before} would become {after}"
            )))
        };
        // Whoever uses too much, because a limit was lowered, may still use less.
        if let Some(most) = self.limits.workers
            && after.workers > u64::from(most)
            && after.workers > before.workers
        {
            return refuse(
                most.to_string(),
                "workers (workers)",
                before.workers.to_string(),
                after.workers.to_string(),
            );
        }
        if let Some(most) = self.limits.cores
            && after.cores > u64::from(most)
            && after.cores > before.cores
        {
            return refuse(
                most.to_string(),
                "cores (cores)",
                before.cores.to_string(),
                after.cores.to_string(),
            );
        }
        if let Some(most) = self.limits.memory
            && after.memory_bytes > most.as_u64()
            && after.memory_bytes > before.memory_bytes
        {
            let text = |bytes| ByteSize::b(bytes).to_string();
            return refuse(
                most.to_string(),
                "of memory (memory)",
                text(before.memory_bytes),
                text(after.memory_bytes),
            );
        }
        Ok(())
    }

    fn exceeded(&self, limit: String) -> Refusal {
        let message = format!("{} allows {} {limit}", self.site, self.operator);
        Refusal::new(Reason::Exhausted, message)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    workers: u64,
    cores: u64,
    memory_bytes: u64,
}

/// Workers that a federation may have: those it has, and those that are being started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Account {
    operator: String,
    pools: BTreeMap<PoolName, u32>,
}

/// Who uses how much of the site.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(BTreeMap<FederationId, Account>);

impl Ledger {
    /// Opens the account of a federation, with the workers that it has already.
    pub(super) fn open(
        &mut self,
        id: FederationId,
        operator: &str,
        pools: BTreeMap<PoolName, u32>,
    ) {
        self.0.entry(id).or_insert_with(|| Account {
            operator: operator.to_owned(),
            pools,
        });
    }

    /// Closes the account of a federation that has ended.
    pub(super) fn close(&mut self, id: FederationId) {
        self.0.remove(&id);
    }

    /// Sets the workers of some pools of a federation, if its operator may have as many. Returns
    /// what was there before, for [`Ledger::failed`].
    ///
    /// # Errors
    /// When a limit would be exceeded; nothing is changed then.
    pub(super) fn reserve(
        &mut self,
        id: FederationId,
        pools: &[(PoolName, u32)],
        offers: &[PoolOffer],
        allowance: &Allowance<'_>,
    ) -> Result<BTreeMap<PoolName, u32>, Refusal> {
        let Some(account) = self.0.get(&id) else {
            // It has just ended; whoever is asked next says so.
            return Ok(BTreeMap::new());
        };
        let mut wanted = account.pools.clone();
        for (pool, workers) in pools {
            if offers.iter().all(|offer| offer.name != *pool) {
                let message = format!("{} has no pool {pool}", allowance.site);
                return Err(Refusal::new(Reason::UnknownPool, message));
            }
            if *workers > 0 {
                allowance.pool(pool)?;
            }
            wanted.insert(pool.clone(), *workers);
        }
        let elsewhere: Vec<_> = self
            .0
            .iter()
            .filter(|(other, theirs)| **other != id && theirs.operator == account.operator)
            .map(|(_, account)| &account.pools)
            .collect();
        let others = || elsewhere.iter().copied();
        let before = usage(others().chain([&account.pools]), offers);
        let after = usage(others().chain([&wanted]), offers);
        allowance.total(before, after)?;
        let account = self.0.get_mut(&id).expect("it was there above");
        Ok(std::mem::replace(&mut account.pools, wanted))
    }

    /// Takes account of a reservation that failed: nobody knows how far it came, so the greater of
    /// both numbers counts, until the next one of that pool.
    pub(super) fn failed(&mut self, id: FederationId, before: BTreeMap<PoolName, u32>) {
        if let Some(account) = self.0.get_mut(&id) {
            for (pool, workers) in before {
                let count = account.pools.entry(pool).or_default();
                *count = workers.max(*count);
            }
        }
    }

    /// Takes account of workers that were ended by name; all of them if none is named.
    pub(super) fn ended(&mut self, id: FederationId, workers: &[String]) {
        let Some(account) = self.0.get_mut(&id) else {
            return;
        };
        if workers.is_empty() {
            account.pools.clear();
        }
        for worker in workers {
            let pools = account.pools.iter_mut();
            // Of the pools `a` and `a-1`, the worker `a-1-1-0` is of the longer one.
            let own = pools.filter(|(pool, _)| is_of(worker, pool));
            if let Some((_, count)) = own.max_by_key(|(pool, _)| pool.as_str().len()) {
                *count = count.saturating_sub(1);
            }
        }
    }
}

/// True if a worker's name is `<pool>-<numbers>`.
fn is_of(worker: &str, pool: &PoolName) -> bool {
    let rest = worker.strip_prefix(pool.as_str());
    rest.and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|rest| {
            rest.bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'-')
        })
}

fn usage<'a>(
    federations: impl Iterator<Item = &'a BTreeMap<PoolName, u32>>,
    offers: &[PoolOffer],
) -> Usage {
    let mut sum = Usage::default();
    for (pool, workers) in federations.flatten() {
        let workers = u64::from(*workers);
        sum.workers += workers;
        if let Some(offer) = offers.iter().find(|offer| offer.name == *pool) {
            sum.cores += workers * u64::from(offer.threads);
            sum.memory_bytes = sum
                .memory_bytes
                .saturating_add(workers.saturating_mul(offer.memory_bytes));
        }
    }
    sum
}

#[cfg(test)]
mod tests;
