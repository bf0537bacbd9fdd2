//! Where things lie by default.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use etcetera::BaseStrategy as _;
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
