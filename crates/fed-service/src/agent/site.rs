//! The site as agent.toml has it now: where its workers run, and who may have what.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fed_core::SiteName;

use super::config::AgentConfig;
use super::federation::Host;
use super::policy::{Allowance, Limits, Policy};
use super::roster::Operator;
use super::serve::AgentError;
use crate::python::{Inspection, Interpreter, exposed, readable};

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
    Ok(Host {
        site: config.name.clone(),
        program: std::env::current_exe().map_err(AgentError::System)?,
        interpreter: interpreter.resolved(inspection),
        pools: config.offers(u32::try_from(cores).unwrap_or(u32::MAX), memory_bytes()),
        read_only,
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
