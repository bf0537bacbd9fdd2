//! What an operator may have at this site: the limits of agent.toml.
//!
//! Does no IO: the service asks here before it passes a call on.

use std::iter::Sum;
use std::ops::Add;
use std::time::Duration;

use bytesize::ByteSize;
use fed_core::{PoolName, PoolOffer, SiteName};
use fed_rpc::status::{Reason, Refusal};
use serde::{Deserialize, Deserializer};

use super::roster::Operator;
use crate::python::Interpreter;

/// Federations that an operator may have at a time where agent.toml names no number: each takes a
/// process, two ports and some memory before any worker runs.
pub(super) const DEFAULT_FEDERATIONS: u32 = 16;

/// Limits for one operator. What is absent is not limited, but for the number of federations.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Most federations at a time. Default 16.
    #[serde(default)]
    pub federations: Option<u32>,
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
    /// The interpreter that these limits name instead of the site's own, if they do.
    pub(super) fn interpreter(&self, own: &Interpreter) -> Option<Interpreter> {
        if self.python.is_none() && self.prologue.is_none() {
            return None;
        }
        Some(Interpreter {
            python: self.python.clone().unwrap_or_else(|| own.python.clone()),
            prologue: self.prologue.clone().unwrap_or_default(),
        })
    }

    /// These limits, and `general` where they say nothing.
    fn or(&self, general: &Self) -> Self {
        // Each prologue belongs to its interpreter.
        let (python, prologue) = match (&self.python, &self.prologue) {
            (None, None) => (general.python.clone(), general.prologue.clone()),
            own => (own.0.clone(), own.1.clone()),
        };
        Self {
            federations: self.federations.or(general.federations),
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
    /// The limits of one operator: a table with the operator's key counts, else with the latest of
    /// their earlier ones, else one with the name (if it is not one that the operator chose), else the
    /// general ones.
    pub(super) fn of(&self, operator: &Operator) -> Limits {
        let of_key = |key: &str| {
            let mut tables = self.operators.iter();
            tables.find(|table| table.fingerprint.as_deref() == Some(key))
        };
        let by_key = operator.keys().find_map(of_key);
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

    /// Refuses a federation beyond those that the operator has.
    pub(super) fn federation(&self, before: u64) -> Result<(), Refusal> {
        let most = self.limits.federations.unwrap_or(DEFAULT_FEDERATIONS);
        if before < u64::from(most) {
            return Ok(());
        }
        Err(self.exceeded(format!(
            "{most} federations (federations) at a time, and {before} run; `fed status` shows them, \
             and `fed down` ends one"
        )))
    }

    /// Refuses that an operator's use grows from `before` beyond the limits. Whoever uses too much,
    /// because a limit was lowered, may still use less.
    pub(super) fn total(&self, before: Usage, after: Usage) -> Result<(), Refusal> {
        let plain = |number: u64| number.to_string();
        let size = |bytes: u64| ByteSize::b(bytes).to_string();
        let check = |most: Option<u64>, before, after, what, text: fn(u64) -> String| match most {
            Some(most) if after > most && after > before => Err(self.exceeded(format!(
                "{} {what} at a time, over all federations; {} would become {}",
                text(most),
                text(before),
                text(after)
            ))),
            _ => Ok(()),
        };
        let most = self.limits.workers.map(u64::from);
        check(
            most,
            before.workers,
            after.workers,
            "workers (workers)",
            plain,
        )?;
        let most = self.limits.cores.map(u64::from);
        check(most, before.cores, after.cores, "cores (cores)", plain)?;
        let most = self.limits.memory.map(|memory| memory.as_u64());
        let (before, after) = (before.memory_bytes, after.memory_bytes);
        check(most, before, after, "of memory (memory)", size)
    }

    fn exceeded(&self, limit: String) -> Refusal {
        let message = format!("{} allows {} {limit}", self.site, self.operator);
        Refusal::new(Reason::Exhausted, message)
    }
}

/// What an operator's federations take of the site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) workers: u64,
    /// Threads of workers.
    pub(super) cores: u64,
    /// Limits of workers.
    pub(super) memory_bytes: u64,
}

impl Usage {
    /// The lesser of both, in each respect.
    pub(super) fn least(self, other: Self) -> Self {
        Self {
            workers: self.workers.min(other.workers),
            cores: self.cores.min(other.cores),
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
        }
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            workers: self.workers.saturating_add(other.workers),
            cores: self.cores.saturating_add(other.cores),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
        }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
pub(super) mod tests;
