//! The tests' Python, and the scripts beside this file.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::within;

/// Returns a Python that has distributed and aiohttp.
pub(crate) fn interpreter() -> PathBuf {
    let python = std::env::var_os("FED_TEST_PYTHON").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "there is no Python at {}: run `cargo xtask test`, which makes target/venv, or set \
         FED_TEST_PYTHON to an interpreter with distributed and aiohttp",
        python.display()
    );
    python
}

/// Returns a command without the settings of the user's own Dask.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(interpreter());
    command
        .current_dir(folder)
        .env("DASK_CONFIG", folder.join("dask-config"))
        .env("DASK_TEMPORARY_DIRECTORY", folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true);
    command
}

/// Runs a script of this folder and returns what it printed.
///
/// # Panics
/// With its standard error, when it fails.
pub(crate) async fn run(script: &str, folder: &Path, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/gateway")
        .join(script);
    let output = command(folder).arg(path).args(arguments).output();
    let output = within(output).await.unwrap();
    assert!(
        output.status.success(),
        "{script}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
