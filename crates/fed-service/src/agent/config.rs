//! `agent.toml`: what a site offers, and to whom.

mod document;

use std::collections::BTreeSet;
use std::num::NonZero;
use std::path::{Component, Path, PathBuf};

use bytesize::ByteSize;
use fed_core::{Destination, Leases, PoolName, PoolOffer, SiteName};
use serde::Deserialize;
use thiserror::Error;

use self::document::{At, Document, Wrong};
use super::policy::{Limits, OperatorTable, Policy};
use crate::python::Interpreter;

/// Most threads that a worker process gets by default: beyond about eight, Python's lock and the
/// readers' own locks leave cores idle.
const MAX_DEFAULT_THREADS: u32 = 8;
/// Share of the host's memory that workers get by default.
const MEMORY_SHARE: f64 = 0.8;
/// The port that agents listen on, unless agent.toml says otherwise.
pub(super) const DEFAULT_PORT: u16 = 4788;

/// Processes and threads that one worker may have by default: many times what the libraries of
/// scientists start on large hosts, and little for a host.
const DEFAULT_PROCESSES: NonZero<u32> = NonZero::new(1024).expect("1024 is not 0");
/// Fewest processes and threads of a worker: a nanny, a worker, their threads and a few more.
const MIN_PROCESSES: u32 = 64;
/// Smallest scratch folder, in bytes: logs, fed's package and what Python itself writes.
const MIN_SCRATCH_BYTES: u64 = 64 << 20;

/// The configuration of an agent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Name of the site.
    pub name: SiteName,
    /// Where the agent listens, e.g. `[::]:4788`.
    #[serde(default = "default_listen")]
    pub listen: String,
    /// `host:port` at which operators reach the agent: what its invitations say.
    pub address: String,
    /// Folder of the agent's keys, operators and federations.
    #[serde(default)]
    pub state: PathBuf,
    /// Interpreter of the workers, with `distributed` installed.
    #[serde(default = "default_python")]
    pub python: String,
    /// Shell commands to run before the interpreter, such as `module load`.
    #[serde(default)]
    pub prologue: String,
    /// User that a root agent becomes.
    #[serde(default)]
    pub user: Option<String>,
    /// Further files and folders that workers may read, such as a software tree.
    #[serde(default)]
    pub read_only: Vec<PathBuf>,
    /// Hosts and ports of the site's network that workers may connect to, each a [`Destination`].
    #[serde(default)]
    pub reach: Vec<String>,
    /// Processes and threads that one worker may have, with all that its tasks start.
    #[serde(default = "default_processes")]
    pub processes: NonZero<u32>,
    /// What the scratch folder of one federation may hold, e.g. `"100 GiB"`.
    #[serde(default)]
    pub scratch: Option<ByteSize>,
    /// The pools. Without one, a pool of the site's name with no data roots.
    #[serde(default, rename = "pool")]
    pub pools: Vec<PoolConfig>,
    /// Limits for every operator.
    #[serde(default)]
    pub policy: Limits,
    /// Limits for single operators.
    #[serde(default, rename = "operator")]
    pub operators: Vec<OperatorTable>,
}

/// A `[[pool]]` table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolConfig {
    /// Name of the pool.
    pub name: PoolName,
    /// Folders (absolute) and URL prefixes whose data lies here. Folders are visible to workers.
    #[serde(default)]
    pub data: Vec<String>,
    /// Workers started when the operator names no number.
    #[serde(default)]
    pub workers: Option<u32>,
    /// Most workers of one federation.
    #[serde(default)]
    pub max_workers: Option<u32>,
    /// Threads per worker.
    #[serde(default)]
    pub threads: Option<NonZero<u32>>,
    /// Memory limit per worker, e.g. `"4 GiB"`.
    #[serde(default)]
    pub memory: Option<ByteSize>,
}

fn default_listen() -> String {
    format!("[::]:{DEFAULT_PORT}")
}

fn default_processes() -> NonZero<u32> {
    DEFAULT_PROCESSES
}

fn default_python() -> String {
    "python3".to_owned()
}

/// Why an agent.toml cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("cannot read {path}: {source}; `fed agent init` writes one")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key or a value is not right.
    #[error("{path}:{line}: {problem}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, what is wrong with it, and what to do.
        problem: String,
    },
}

/// An agent.toml, which may be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// The state folder if the file names none.
    pub state: PathBuf,
}

impl ConfigFile {
    /// Reads it.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(&self) -> Result<AgentConfig, ConfigError> {
        AgentConfig::load(&self.path, &self.state)
    }

    /// Reads what may become the file; tells the key that is wrong, and why.
    pub(super) fn parse(&self, text: &str) -> Result<AgentConfig, String> {
        AgentConfig::parse(text, &self.state).map_err(|wrong| wrong.problem)
    }
}

impl AgentConfig {
    /// Reads an agent.toml; `state` is the state folder of one that names none.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path, state: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, state).map_err(|Wrong { line, problem }| ConfigError::Wrong {
            path: path.to_owned(),
            line,
            problem,
        })
    }

    fn parse(text: &str, state: &Path) -> Result<Self, Wrong> {
        let document = Document::parse(text)?;
        let mut config: Self = toml::from_str(text).map_err(|error| document.mistyped(&error))?;
        if !document.has("state") {
            state.clone_into(&mut config.state);
        }
        match config.first_mistake() {
            Some((place, problem)) => Err(Wrong {
                line: document.line(&place),
                problem,
            }),
            None => Ok(config),
        }
    }

    /// A value that has the right type and is wrong all the same: where, and why.
    fn first_mistake(&self) -> Option<(Vec<At<'static>>, String)> {
        let top = |key, problem: String| Some((vec![At::Key(key)], format!("{key}: {problem}")));
        if self
            .address
            .rsplit_once(':')
            .is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            return top("address", format!("{:?} is not host:port", self.address));
        }
        if !self.state.is_absolute() {
            return top("state", format!("{} is not absolute", self.state.display()));
        }
        if self.name.as_str() == "operator" {
            return top(
                "name",
                "\"operator\" is what fed calls the operator's host; choose another".to_owned(),
            );
        }
        if let Some(relative) = self.read_only.iter().find(|path| !path.is_absolute()) {
            return top(
                "read_only",
                format!("{} is not absolute", relative.display()),
            );
        }
        if self.processes.get() < MIN_PROCESSES {
            return top(
                "processes",
                format!(
                    "{} are too few for a worker; it needs {MIN_PROCESSES}",
                    self.processes
                ),
            );
        }
        if let Some(scratch) = self
            .scratch
            .filter(|size| size.as_u64() < MIN_SCRATCH_BYTES)
        {
            return top(
                "scratch",
                format!("{scratch} is too little; logs alone need \"64 MiB\""),
            );
        }
        let mut reach = BTreeSet::new();
        for (index, text) in self.reach.iter().enumerate() {
            let problem = match text.parse::<Destination>() {
                Ok(destination) if reach.insert(destination.clone()) => continue,
                Ok(destination) => format!("{destination} is named twice"),
                Err(error) => error.to_string(),
            };
            let place = vec![At::Key("reach"), At::Index(index)];
            return Some((place, format!("reach: {problem}")));
        }
        let pools = self.pools.iter().enumerate();
        let mistakes = pools.filter_map(|(index, pool)| {
            let earlier = &self.pools[..index];
            let (key, problem) = match earlier.iter().any(|other| other.name == pool.name) {
                true => ("name", format!("{} is named twice", pool.name)),
                false => pool.first_mistake()?,
            };
            let place = vec![At::Key("pool"), At::Index(index), At::Key(key)];
            Some((place, format!("pool.{key}: {problem}")))
        });
        mistakes.chain(self.mistakes_of_policy()).next()
    }

    fn mistakes_of_policy(&self) -> impl Iterator<Item = (Vec<At<'static>>, String)> {
        let names: Vec<PoolName> = self.own_pools().into_iter().map(|pool| pool.name).collect();
        let unknown = move |limits: &Limits| {
            let asked = limits.pools.iter().flatten();
            let pool = asked.into_iter().find(|pool| !names.contains(pool))?;
            let near = fed_core::nearest(pool.as_str(), names.iter().map(PoolName::as_str));
            let hint = near.map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
            Some(format!("there is no pool {pool}{hint}"))
        };
        let wrong = move |limits: &Limits| {
            let pools = unknown(limits).map(|problem| ("pools", problem));
            pools.or_else(|| too_short(limits))
        };
        let general = wrong(&self.policy).map(|(key, problem)| {
            let place = vec![At::Key("policy"), At::Key(key)];
            (place, format!("policy.{key}: {problem}"))
        });
        let tables = self.operators.iter().enumerate();
        let single = tables.filter_map(move |(index, table)| {
            let (key, problem) = match (&table.name, &table.fingerprint) {
                (None, None) => ("name", "give the operator's name or fingerprint".to_owned()),
                (_, Some(text)) if text.parse::<fed_rpc::Fingerprint>().is_err() => (
                    "fingerprint",
                    format!("{text:?} is none; `fed agent operators` shows them"),
                ),
                _ => wrong(&table.limits)?,
            };
            let place = vec![At::Key("operator"), At::Index(index), At::Key(key)];
            Some((place, format!("operator.{key}: {problem}")))
        });
        general.into_iter().chain(single)
    }

    /// Takes what cannot change in a running agent from the configuration that it runs with.
    /// Returns the keys that differ.
    pub(super) fn keep_what_cannot_change(&mut self, running: &Self) -> Vec<&'static str> {
        let mut kept = Vec::new();
        if self.name != running.name {
            kept.push("name");
            self.name.clone_from(&running.name);
        }
        if self.listen != running.listen {
            kept.push("listen");
            self.listen.clone_from(&running.listen);
        }
        if self.state != running.state {
            kept.push("state");
            self.state.clone_from(&running.state);
        }
        if self.user != running.user {
            kept.push("user");
            self.user.clone_from(&running.user);
        }
        kept
    }

    /// What each operator may have.
    pub(super) fn policy(&self) -> Policy {
        Policy {
            general: self.policy.clone(),
            operators: self.operators.clone(),
        }
    }

    /// The interpreter of the workers.
    pub fn interpreter(&self) -> Interpreter {
        Interpreter {
            python: self.python.clone(),
            prologue: self.prologue.clone(),
        }
    }

    /// The pools with all defaults filled in, for a host of `cores` and `memory_bytes`.
    pub fn offers(&self, cores: u32, memory_bytes: u64) -> Vec<PoolOffer> {
        let own = self.own_pools();
        let share = u32::try_from(own.len()).unwrap_or(u32::MAX);
        own.iter()
            .map(|pool| pool.offer(cores / share, memory_bytes / u64::from(share)))
            .collect()
    }

    /// The pools as they are configured, or the one of the site's name.
    fn own_pools(&self) -> Vec<PoolConfig> {
        if !self.pools.is_empty() {
            return self.pools.clone();
        }
        vec![PoolConfig {
            name: self
                .name
                .as_str()
                .parse()
                .expect("site and pool names have one form"),
            data: Vec::new(),
            workers: None,
            max_workers: None,
            threads: None,
            memory: None,
        }]
    }

    /// The hosts that workers may connect to.
    pub fn destinations(&self) -> Vec<Destination> {
        let parsed = self.reach.iter().map(|text| text.parse());
        parsed
            .collect::<Result<_, _>>()
            .expect("the file was checked when it was read")
    }

    /// Folders of all pools, which workers may read.
    pub fn data_folders(&self) -> impl Iterator<Item = PathBuf> {
        let roots = self.pools.iter().flat_map(|pool| &pool.data);
        roots
            .filter(|root| root.starts_with('/'))
            .map(PathBuf::from)
    }
}

/// Which limit leaves no operator a lease that there is.
fn too_short(limits: &Limits) -> Option<(&'static str, String)> {
    let times = [("lease", limits.lease), ("lifetime", limits.lifetime)];
    let (key, time) = times
        .into_iter()
        .find_map(|(key, time)| Some((key, time.filter(|time| *time < Leases::MIN)?)))?;
    let (time, least) = (
        humantime::format_duration(time),
        humantime::format_duration(Leases::MIN),
    );
    Some((
        key,
        format!("{time} is shorter than the shortest lease, {least}"),
    ))
}

impl PoolConfig {
    /// The key of a wrong value, and what is wrong with it.
    fn first_mistake(&self) -> Option<(&'static str, String)> {
        if let (Some(workers), Some(max)) = (self.workers, self.max_workers)
            && workers > max
        {
            return Some((
                "workers",
                format!("{workers} is more than max_workers, {max}"),
            ));
        }
        let mut roots = self.data.iter();
        if roots.any(|root| root.trim_end_matches('/').is_empty()) {
            return Some(("data", "\"/\" would show workers the whole host".to_owned()));
        }
        if self.memory.is_some_and(|memory| memory.as_u64() == 0) {
            return Some(("memory", "no worker can run in 0 bytes".to_owned()));
        }
        let folders = self.data.iter().filter(|root| root.starts_with('/'));
        for root in folders {
            let steps: Vec<_> = Path::new(root).components().collect();
            if steps.contains(&Component::ParentDir) {
                let problem = format!("{root:?} goes up again; write where it leads");
                return Some(("data", problem));
            }
            let of_kernel = ["/proc", "/sys", "/dev"];
            if of_kernel
                .iter()
                .any(|folder| Path::new(root).starts_with(folder))
            {
                return Some((
                    "data",
                    format!("{root:?} holds no data but the system's own"),
                ));
            }
        }
        let relative = |root: &&String| !root.starts_with('/') && !root.contains("://");
        let root = self.data.iter().find(relative)?;
        Some(("data", format!("{root:?} is neither absolute nor a URL")))
    }

    fn offer(&self, cores: u32, memory_bytes: u64) -> PoolOffer {
        let cores = cores.max(1);
        let threads = self.threads.map_or_else(
            || cores.div_ceil(cores.div_ceil(MAX_DEFAULT_THREADS)),
            NonZero::get,
        );
        let workers = self.workers.unwrap_or_else(|| (cores / threads).max(1));
        let each = memory_bytes / u64::from(workers.max(1));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a memory size need not be exact"
        )]
        let default_memory = (each as f64 * MEMORY_SHARE) as u64;
        PoolOffer {
            name: self.name.clone(),
            data_roots: self.data.clone(),
            default_workers: workers,
            max_workers: self.max_workers.unwrap_or_else(|| workers.max(cores)),
            threads,
            memory_bytes: self.memory.map_or(default_memory, |size| size.as_u64()),
        }
    }
}

#[cfg(test)]
mod tests;
