//! The site as agent.toml has it now: where its workers run, and who may have what.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytesize::ByteSize;
use fed_core::{PoolOffer, SiteName};
use fed_sandbox::Quotas;
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;
use tracing::warn;

use super::config::{AgentConfig, At, is_of_system};
use super::federation::Host;
use super::inspector::{Answer, Inspector, places};
use super::policy::{Allowance, Limits, Policy};
use super::roster::Operator;
use super::serve::AgentError;
use crate::python::{Inspection, Interpreter, exposed, readable, shows};

/// Which part of the free space the scratch folder of one federation may take by default: one of
/// so many.
const SCRATCH_SHARE: u64 = 4;
/// Most processes and threads of one federation: each takes some kilobytes of the kernel's memory.
const MOST_PROCESSES: u32 = 32_768;

/// What is made anew when agent.toml is read again. A federation keeps what it began with, except
/// for the limits.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) name: SiteName,
    policy: Policy,
    own: Interpreter,
    hosts: Vec<Known>,
}

/// An interpreter of the configuration.
#[derive(Debug)]
pub(super) struct Known {
    /// Where it is named, for errors.
    pub(super) place: String,
    pub(super) interpreter: Interpreter,
    pub(super) inspection: Inspection,
    host: Arc<Host>,
    inspector: Inspector,
}

impl Site {
    /// Asks every interpreter of the configuration what it is, and checks the folders.
    pub(super) async fn open(config: &AgentConfig) -> Result<Self, AgentError> {
        let folders = folders(config)?;
        let mut hosts: Vec<Known> = Vec::new();
        let places = places();
        for (place, interpreter) in config.interpreters() {
            if hosts.iter().any(|known| known.interpreter == interpreter) {
                continue;
            }
            let place = config.place(&place);
            let inspection = match interpreter.inspect().await {
                Ok(inspection) => inspection,
                Err(source) => return Err(AgentError::Python { place, source }),
            };
            for package in ["dask", "distributed"] {
                if !inspection.environment.packages.contains_key(package) {
                    let python = &interpreter.python;
                    warn!("{place}: {python} has no {package}, so that no worker can start");
                }
            }
            let host = Arc::new(host(config, &folders, &interpreter, &inspection)?);
            let inspector = Inspector::new(host.interpreter.clone(), &places);
            hosts.push(Known {
                place,
                interpreter,
                inspection,
                host,
                inspector,
            });
        }
        let site = Self {
            name: config.name.clone(),
            policy: config.policy(),
            own: config.interpreter(),
            hosts,
        };
        if let Some(warning) = site.overcommitted() {
            warn!("{warning}");
        }
        Ok(site)
    }

    /// The interpreters of the configuration, the site's own first.
    pub(super) fn interpreters(&self) -> &[Known] {
        &self.hosts
    }

    /// Says so if one federation may be given more memory than this host has.
    pub(super) fn overcommitted(&self) -> Option<String> {
        let pools = self.hosts.first().map(|known| &known.host.pools)?;
        let each = |pool: &PoolOffer| u64::from(pool.max_workers).saturating_mul(pool.memory_bytes);
        let offered = pools.iter().map(each).fold(0, u64::saturating_add);
        let memory = memory_bytes();
        (offered > memory).then(|| {
            format!(
                "the pools offer workers of {} together, and this host has {}: lower `memory` or \
                 `max_workers`, else tasks may exhaust it",
                ByteSize::b(offered),
                ByteSize::b(memory)
            )
        })
    }

    /// What an operator may have.
    pub(super) fn limits(&self, operator: &Operator) -> Limits {
        self.policy.of(operator)
    }

    /// The limits, with the names that a refusal tells.
    pub(super) fn allowance<'a>(
        &'a self,
        operator: &'a Operator,
        limits: &'a Limits,
    ) -> Allowance<'a> {
        Allowance {
            site: &self.name,
            operator: &operator.name,
            limits,
        }
    }

    /// Where the workers of an operator with these limits run.
    pub(super) fn host(&self, limits: &Limits) -> Arc<Host> {
        Arc::clone(&self.known(limits).host)
    }

    /// Asks the interpreter of an operator with these limits what it is now.
    ///
    /// # Errors
    /// See [`Inspector::inspect`].
    pub(super) async fn inspect(&self, limits: &Limits) -> Answer {
        self.known(limits).inspector.inspect().await
    }

    fn known(&self, limits: &Limits) -> &Known {
        let wanted = limits.interpreter(&self.own);
        let wanted = wanted.as_ref().unwrap_or(&self.own);
        let found = self.hosts.iter().find(|known| known.interpreter == *wanted);
        found.expect("every interpreter of the configuration has its host")
    }
}

/// The files and folders that the configuration shows to workers, each with its place.
fn folders(config: &AgentConfig) -> Result<Vec<(String, PathBuf)>, AgentError> {
    let named = config.folders().into_iter();
    let checked = named.map(|(at, path)| {
        let place = config.place(&at);
        match mistake_of_folder(&path) {
            None => Ok((place, path)),
            Some(problem) => Err(AgentError::Folder { place, problem }),
        }
    });
    checked.collect()
}

/// Why a folder cannot be shown to workers.
fn mistake_of_folder(path: &Path) -> Option<String> {
    let shown = path.display();
    match path.canonicalize() {
        Ok(real) => is_of_system(&real).map(|problem| match real == path {
            true => problem,
            false => format!("{shown} is a link to {}: {problem}", real.display()),
        }),
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => Some(format!(
            "{shown} is a link that leads back to itself; name the folder that is meant"
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(format!(
            "{shown} does not exist, or is a link to nothing; mount or create it, or take it out"
        )),
        Err(error) => Some(format!(
            "{shown} cannot be looked at ({error}); let the agent's user read it"
        )),
    }
}

fn host(
    config: &AgentConfig,
    folders: &[(String, PathBuf)],
    interpreter: &Interpreter,
    inspection: &Inspection,
) -> Result<Host, AgentError> {
    let named = folders.iter().map(|(_, path)| path.clone()).collect();
    let read_only = readable(inspection, named);
    if let Some((place, path)) = folders.iter().find(|(_, path)| !shows(&read_only, path)) {
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        let problem = format!(
            "{} leads to {real}, a folder above itself; write {real} if workers may see all of it, \
             else the folder that is meant",
            path.display(),
            real = real.display()
        );
        let place = place.clone();
        return Err(AgentError::Folder { place, problem });
    }
    if let Some(visible) = exposed(&config.state, &read_only) {
        return Err(AgentError::Exposed {
            place: config.place(&[At::Key("state")]),
            state: config.state.clone(),
            visible: visible.clone(),
        });
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let pools = config.offers(u32::try_from(cores).unwrap_or(u32::MAX), memory_bytes());
    Ok(Host {
        site: config.name.clone(),
        program: std::env::current_exe().map_err(AgentError::System)?,
        interpreter: interpreter.resolved(inspection),
        quotas: quotas(config, &pools)?,
        processes: config.processes.get(),
        pools,
        read_only,
        reach: config.destinations(),
    })
}

/// What the workers of one federation may use together.
fn quotas(config: &AgentConfig, pools: &[PoolOffer]) -> Result<Quotas, AgentError> {
    let workers = pools.iter().map(|pool| u64::from(pool.max_workers));
    let processes = workers.sum::<u64>() * u64::from(config.processes.get());
    let scratch_bytes = match config.scratch {
        Some(size) => size.as_u64(),
        None => {
            // `fed agent init` asks before it makes the folder.
            let mut folders = config.state.ancestors();
            let status = folders.find_map(|folder| statvfs(folder).ok());
            let status = status.ok_or(AgentError::System(std::io::ErrorKind::NotFound.into()))?;
            status.blocks_available() * status.fragment_size() / SCRATCH_SHARE
        }
    };
    let memory = pools.iter().map(|pool| pool.memory_bytes);
    Ok(Quotas {
        processes: u32::try_from(processes).map_or(MOST_PROCESSES, |all| all.min(MOST_PROCESSES)),
        shared_memory_bytes: memory.max().unwrap_or_default(),
        scratch_bytes,
    })
}

/// Memory of this host in bytes, from /proc/meminfo; 1 GiB if it does not say.
fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string(Path::new("/proc/meminfo")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| {
            rest.trim()
                .trim_end_matches("kB")
                .trim()
                .parse::<u64>()
                .ok()
        });
    kib.map_or(1 << 30, |kib| kib * 1024)
}
