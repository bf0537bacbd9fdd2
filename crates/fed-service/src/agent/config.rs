//! `agent.toml`: what a site offers.

use std::num::NonZero;
use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use fed_core::{PoolName, PoolOffer, SiteName};
use serde::Deserialize;
use thiserror::Error;

use crate::python::Interpreter;

/// Most threads that a worker process gets by default: beyond about eight, Python's lock and the
/// readers' own locks leave cores idle.
const MAX_DEFAULT_THREADS: u32 = 8;
/// Share of the host's memory that workers get by default.
const MEMORY_SHARE: f64 = 0.8;

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
    #[serde(default = "default_state")]
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
    /// The pools. Without one, a pool of the site's name with no data roots.
    #[serde(default, rename = "pool")]
    pub pools: Vec<PoolConfig>,
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
    "[::]:4788".to_owned()
}

fn default_state() -> PathBuf {
    PathBuf::from("/var/lib/fed-agent")
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
    /// It is not right. The source names line and column.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong, where.
        source: Box<toml::de::Error>,
    },
    /// A value is not right.
    #[error("{path}: {key}: {problem}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong, and what to do.
        problem: String,
    },
}

impl AgentConfig {
    /// Reads an agent.toml.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            source: source.into(),
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: String| {
            Err(ConfigError::Value {
                path: path.to_owned(),
                key: key.to_owned(),
                problem,
            })
        };
        if self
            .address
            .rsplit_once(':')
            .is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            return wrong("address", format!("{:?} is not host:port", self.address));
        }
        if !self.state.is_absolute() {
            return wrong("state", format!("{} is not absolute", self.state.display()));
        }
        if self.name.as_str() == "operator" {
            return wrong(
                "name",
                "\"operator\" is what fed calls the operator's host; choose another".to_owned(),
            );
        }
        for (index, pool) in self.pools.iter().enumerate() {
            if self.pools[..index]
                .iter()
                .any(|other| other.name == pool.name)
            {
                return wrong("pool", format!("{} is named twice", pool.name));
            }
            if let (Some(workers), Some(max)) = (pool.workers, pool.max_workers)
                && workers > max
            {
                return wrong(
                    "pool.workers",
                    format!("{workers} is more than max_workers, {max}"),
                );
            }
            if pool
                .data
                .iter()
                .any(|root| root.trim_end_matches('/').is_empty())
            {
                return wrong(
                    "pool.data",
                    "\"/\" would show workers the whole host".to_owned(),
                );
            }
            let relative = |root: &&String| !root.starts_with('/') && !root.contains("://");
            if let Some(root) = pool.data.iter().find(relative) {
                return wrong(
                    "pool.data",
                    format!("{root:?} is neither absolute nor a URL"),
                );
            }
        }
        Ok(())
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
        let default = || PoolConfig {
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
        };
        let own = if self.pools.is_empty() {
            vec![default()]
        } else {
            self.pools.clone()
        };
        let share = u32::try_from(own.len()).unwrap_or(u32::MAX);
        own.iter()
            .map(|pool| pool.offer(cores / share, memory_bytes / u64::from(share)))
            .collect()
    }

    /// Folders of all pools, which workers may read.
    pub fn data_folders(&self) -> impl Iterator<Item = PathBuf> {
        let roots = self.pools.iter().flat_map(|pool| &pool.data);
        roots
            .filter(|root| root.starts_with('/'))
            .map(PathBuf::from)
    }
}

impl PoolConfig {
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
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AgentConfig, ConfigError> {
        AgentConfig::parse(text, Path::new("agent.toml"))
    }

    const SMALL: &str = "name = \"ecmwf\"\naddress = \"agent.example:4788\"\n";

    #[test]
    fn a_small_file_gets_defaults() {
        let config = parse(SMALL).unwrap();
        let offers = config.offers(32, 64 << 30);
        assert_eq!(offers.len(), 1);
        assert_eq!(offers[0].name.as_str(), "ecmwf");
        assert_eq!((offers[0].default_workers, offers[0].threads), (4, 8));
        assert!(offers[0].memory_bytes < 16 << 30);
        let tiny = config.offers(2, 1 << 30);
        assert_eq!((tiny[0].default_workers, tiny[0].threads), (1, 2));
    }

    #[test]
    fn what_is_written_counts() {
        let text = format!(
            "{SMALL}[[pool]]\nname = \"hot\"\ndata = [\"/data/hot\", \"s3://hot\"]\nworkers = 3\n\
             threads = 1\nmemory = \"2 GiB\"\n"
        );
        let config = parse(&text).unwrap();
        let offer = &config.offers(2, 1 << 30)[0];
        assert_eq!(
            (offer.default_workers, offer.threads, offer.memory_bytes),
            (3, 1, 2 << 30)
        );
        assert_eq!(
            config.data_folders().collect::<Vec<_>>(),
            [PathBuf::from("/data/hot")]
        );
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let unknown = parse(&format!("{SMALL}pyton = \"x\"\n"))
            .unwrap_err()
            .to_string();
        assert!(
            unknown.contains("agent.toml") && unknown.contains("line 3"),
            "{unknown}"
        );
        let relative = format!("{SMALL}[[pool]]\nname = \"a\"\ndata = [\"data\"]\n");
        assert!(
            parse(&relative)
                .unwrap_err()
                .to_string()
                .contains("neither absolute nor a URL")
        );
        let address = "name = \"a\"\naddress = \"nowhere\"\n";
        assert!(
            parse(address)
                .unwrap_err()
                .to_string()
                .contains("host:port")
        );
        let twice = format!("{SMALL}[[pool]]\nname = \"a\"\n[[pool]]\nname = \"a\"\n");
        assert!(
            parse(&twice)
                .unwrap_err()
                .to_string()
                .contains("named twice")
        );
    }
}
