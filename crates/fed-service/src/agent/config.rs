//! `agent.toml`: what a site offers, and to whom.

mod document;
mod mistakes;
mod offers;
mod schema;

use std::num::NonZero;
use std::path::PathBuf;

use bytesize::ByteSize;
use fed_core::{Destination, PoolName, SiteName};
use serde::Deserialize;
use thiserror::Error;

pub(super) use self::document::At;
use self::document::{Document, Wrong, dotted};
pub(super) use self::mistakes::is_of_system;
use super::policy::{Limits, OperatorTable, Policy};
use crate::python::Interpreter;

/// The port that agents listen on, unless agent.toml says otherwise.
pub(super) const DEFAULT_PORT: u16 = 4788;
/// The interpreter of workers by default.
const DEFAULT_PYTHON: &str = "python3";
/// Processes and threads that one worker may have by default: many times what the libraries of
/// scientists start on large hosts, and little for a host.
const DEFAULT_PROCESSES: NonZero<u32> = NonZero::new(1024).expect("1024 is not 0");

/// The configuration of an agent.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Name of the site.
    pub name: SiteName,
    /// Where the agent listens. One that dials need not listen.
    #[serde(default)]
    pub listen: Option<String>,
    /// `host:port` at which operators reach the agent: what its invitations say. One that dials need
    /// not be reached.
    #[serde(default)]
    pub address: Option<String>,
    /// `host:port` of operators that the agent dials, because they cannot reach it.
    #[serde(default)]
    pub dial: Vec<String>,
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
    /// Where all this stands.
    #[serde(skip)]
    source: Source,
}

/// Where a configuration stands, for mistakes that show after it has been read.
#[derive(Clone, Debug, Default, PartialEq)]
enum Source {
    /// In flags of `fed agent init`, whose names are the keys.
    #[default]
    Flags,
    File {
        path: PathBuf,
        text: String,
    },
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

fn default_processes() -> NonZero<u32> {
    DEFAULT_PROCESSES
}

fn default_python() -> String {
    DEFAULT_PYTHON.to_owned()
}

/// Why an agent.toml cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It could not be read.
    #[error("cannot read {path}: {source}; {}", remedy(.source))]
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

/// What to do about a file that cannot be read.
fn remedy(error: &std::io::Error) -> &'static str {
    let kind = error.kind();
    if kind == std::io::ErrorKind::NotFound {
        "`fed agent init` writes one, and --config names one that lies elsewhere"
    } else if kind == std::io::ErrorKind::InvalidData {
        "write it in UTF-8"
    } else {
        "let the agent's user read it, or name another with --config"
    }
}

/// An agent.toml, which may be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// The file.
    pub path: PathBuf,
    /// The state folder if the file names none.
    pub state: PathBuf,
    /// Operators to dial besides those that the file names.
    pub dial: Vec<String>,
}

impl ConfigFile {
    /// Reads it.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(&self) -> Result<AgentConfig, ConfigError> {
        let text = std::fs::read_to_string(&self.path).map_err(|source| ConfigError::Read {
            path: self.path.clone(),
            source,
        })?;
        let source = Source::File {
            path: self.path.clone(),
            text: text.clone(),
        };
        AgentConfig::parse(&text, self, source).map_err(|wrong| ConfigError::Wrong {
            path: self.path.clone(),
            line: wrong.line,
            problem: wrong.to_string(),
        })
    }

    /// Reads what may become the file, from flags of `fed agent init`; tells the flag that is wrong,
    /// and why.
    pub(super) fn parse(&self, text: &str) -> Result<AgentConfig, String> {
        let parsed = AgentConfig::parse(text, self, Source::Flags);
        parsed.map_err(|wrong| format!("{}: {}", flag(&wrong.key), wrong.problem))
    }
}

impl AgentConfig {
    fn parse(text: &str, file: &ConfigFile, source: Source) -> Result<Self, Wrong> {
        let document = Document::parse(text)?;
        // What the document has let through is of the right types.
        let mut config: Self = toml::from_str(text).map_err(|error| document.unusable(&error))?;
        config.source = source;
        if !document.has("state") {
            config.state.clone_from(&file.state);
        }
        for address in &file.dial {
            if !config.dial.contains(address) {
                config.dial.push(address.clone());
            }
        }
        match config.first_mistake() {
            Some((place, problem)) => Err(Wrong {
                line: document.line(&place),
                key: dotted(&place),
                problem,
            }),
            None => Ok(config),
        }
    }

    /// Where a value stands, and its key: the beginning of a sentence about it.
    pub(super) fn place(&self, path: &[At<'_>]) -> String {
        let key = dotted(path);
        let Source::File { path: file, text } = &self.source else {
            return flag(&key);
        };
        let document = Document::parse(text).ok();
        match document.and_then(|document| document.line_of(path)) {
            Some(line) => format!("{}:{line}: {key}", file.display()),
            None => format!("{}: {key} (by default)", file.display()),
        }
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
        if self.dial != running.dial {
            kept.push("dial");
            self.dial.clone_from(&running.dial);
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

    /// Where the agent listens, if it does: one that only dials opens no port.
    pub(super) fn listens_at(&self) -> Option<String> {
        let default = || {
            self.address
                .is_some()
                .then(|| format!("[::]:{DEFAULT_PORT}"))
        };
        self.listen.clone().or_else(default)
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

    /// The hosts that workers may connect to.
    pub fn destinations(&self) -> Vec<Destination> {
        let parsed = self.reach.iter().map(|text| text.parse());
        parsed
            .collect::<Result<_, _>>()
            .expect("the file was checked when it was read")
    }

    /// The interpreters of the workers, the site's own first, each with the key that names it.
    pub(super) fn interpreters(&self) -> Vec<(Vec<At<'static>>, Interpreter)> {
        let own = match (self.python.as_str(), self.prologue.as_str()) {
            (DEFAULT_PYTHON, prologue) if !prologue.trim().is_empty() => "prologue",
            _ => "python",
        };
        let general = (vec![At::Key("policy")], &self.policy);
        let tables = self.operators.iter().enumerate().map(|(index, table)| {
            let place = vec![At::Key("operator"), At::Index(index)];
            (place, &table.limits)
        });
        let others = std::iter::once(general).chain(tables);
        let others = others.filter_map(|(mut place, limits)| {
            let interpreter = limits.interpreter(&self.interpreter())?;
            let key = limits.python.as_ref().map_or("prologue", |_| "python");
            place.push(At::Key(key));
            Some((place, interpreter))
        });
        let own = (vec![At::Key(own)], self.interpreter());
        std::iter::once(own).chain(others).collect()
    }

    /// Files and folders that workers may read besides the interpreter, each with its place.
    pub(super) fn folders(&self) -> Vec<(Vec<At<'static>>, PathBuf)> {
        let pools = self.pools.iter().enumerate().flat_map(|(number, pool)| {
            let roots = pool.data.iter().enumerate();
            roots
                .filter(|(_, root)| root.starts_with('/'))
                .map(move |(index, root)| {
                    let pool = [At::Key("pool"), At::Index(number)];
                    let place = pool.into_iter().chain([At::Key("data"), At::Index(index)]);
                    (place.collect(), PathBuf::from(root))
                })
        });
        let others = self.read_only.iter().enumerate().map(|(index, path)| {
            let place = vec![At::Key("read_only"), At::Index(index)];
            (place, path.clone())
        });
        pools.chain(others).collect()
    }
}

/// The flag of `fed agent init` that gives a key its value.
fn flag(key: &str) -> String {
    format!("--{}", key.rsplit('.').next().unwrap_or(key))
}

#[cfg(test)]
mod tests;
