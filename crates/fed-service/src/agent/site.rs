//! The site as agent.toml has it now: where its workers run, and who may have what.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fed_core::{PoolOffer, SiteName};
use fed_sandbox::Quotas;
use nix::sys::statvfs::statvfs;

use super::config::AgentConfig;
use super::federation::Host;
use super::policy::{Allowance, Limits, Policy};
use super::roster::Operator;
use super::serve::AgentError;
use crate::python::{Inspection, Interpreter, exposed, readable};

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
    hosts: Vec<(Interpreter, Arc<Host>)>,
}

impl Site {
    /// Asks every interpreter of the configuration what it is, and checks the folders.
    pub(super) async fn open(config: &AgentConfig) -> Result<Self, AgentError> {
        let policy = config.policy();
        let own = config.interpreter();
        let mut hosts: Vec<(Interpreter, Arc<Host>)> = Vec::new();
        let tables = policy.operators.iter().map(|table| &table.limits);
        let wanted = tables.chain([&policy.general]);
        let others: Vec<_> = wanted
            .filter_map(|limits| interpreter(limits, &own))
            .collect();
        for interpreter in std::iter::once(own.clone()).chain(others) {
            if hosts.iter().all(|(known, _)| *known != interpreter) {
                let inspection = interpreter.inspect().await?;
                let host = host(config, &interpreter, &inspection)?;
                hosts.push((interpreter, Arc::new(host)));
            }
        }
        Ok(Self {
            name: config.name.clone(),
            policy,
            own,
            hosts,
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
        let wanted = interpreter(limits, &self.own);
        let wanted = wanted.as_ref().unwrap_or(&self.own);
        let found = self
            .hosts
            .iter()
            .find(|(interpreter, _)| interpreter == wanted);
        let (_, host) = found.expect("every interpreter of the configuration has its host");
        Arc::clone(host)
    }
}

/// The interpreter that limits name instead of the site's.
fn interpreter(limits: &Limits, own: &Interpreter) -> Option<Interpreter> {
    if limits.python.is_none() && limits.prologue.is_none() {
        return None;
    }
    Some(Interpreter {
        python: limits.python.clone().unwrap_or_else(|| own.python.clone()),
        prologue: limits.prologue.clone().unwrap_or_default(),
    })
}

fn host(
    config: &AgentConfig,
    interpreter: &Interpreter,
    inspection: &Inspection,
) -> Result<Host, AgentError> {
    let named: Vec<PathBuf> = config
        .data_folders()
        .chain(config.read_only.iter().cloned())
        .collect();
    if let Some(missing) = named.iter().find(|path| !path.exists()) {
        return Err(AgentError::Missing(missing.clone()));
    }
    let read_only = readable(inspection, named);
    if let Some(visible) = exposed(&config.state, &read_only) {
        return Err(AgentError::Exposed {
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
