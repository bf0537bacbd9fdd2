//! Where things lie by default.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use etcetera::BaseStrategy as _;
use fed_service::agent::ConfigFile;
use fed_service::operator::OperatorState;

use crate::Global;

/// Opens the operator's state folder.
pub(crate) fn state(global: &Global) -> anyhow::Result<OperatorState> {
    let folder = match &global.state {
        Some(folder) => std::path::absolute(folder)?,
        None => {
            let base = etcetera::choose_base_strategy().context("there is no home folder")?;
            base.state_dir()
                .unwrap_or_else(|| base.data_dir())
                .join("fed")
        }
    };
    Ok(OperatorState::open(&folder)?)
}

/// Finds the configuration of the agent: the one that is named, else the system's for root, and for
/// others their own, unless they have none and the system has one.
///
/// An agent keeps its state in `/var/lib/fed-agent` where it is root's or the system's, else below
/// the user's own state folder.
pub(crate) fn agent(named: Option<&Path>) -> anyhow::Result<ConfigFile> {
    let of_system = || ConfigFile {
        path: PathBuf::from("/etc/fed/agent.toml"),
        state: PathBuf::from("/var/lib/fed-agent"),
        dial: Vec::new(),
    };
    let file = if nix::unistd::geteuid().is_root() {
        of_system()
    } else {
        let base = etcetera::choose_base_strategy().context("there is no home folder")?;
        let own = ConfigFile {
            path: base.config_dir().join("fed").join("agent.toml"),
            state: base
                .state_dir()
                .unwrap_or_else(|| base.data_dir())
                .join("fed")
                .join("agent"),
            dial: Vec::new(),
        };
        match named {
            Some(named) if named.starts_with("/etc") => of_system(),
            None if !own.path.exists() && of_system().path.exists() => of_system(),
            _ => own,
        }
    };
    let path = named.map_or(Ok(file.path), std::path::absolute)?;
    Ok(ConfigFile { path, ..file })
}

/// Finds the interpreter of the scheduler: the one beside this program, else that of the active
/// virtual or conda environment, else `python3`.
pub(crate) fn python() -> String {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join("python3")));
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(|prefix| Path::new(&prefix).join("bin/python3"));
    let found: Option<PathBuf> = beside
        .into_iter()
        .chain(environments)
        .find(|path| path.is_file());
    found.map_or_else(|| "python3".to_owned(), |path| path.display().to_string())
}
