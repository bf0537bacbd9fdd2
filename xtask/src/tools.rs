//! Cargo tools that the checks use, installed into `target/tools` where they are missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::Log;

/// The release of cargo-deny that the checks are written for.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Gives the path of cargo-deny; builds it first (some minutes) when it is missing or another version.
///
/// # Errors
/// When it has to be built and cannot be, for instance without a network.
pub(crate) fn cargo_deny(root: &Path, log: &mut Log) -> Result<PathBuf> {
    let folder = root.join("target/tools");
    let program = folder.join("bin/cargo-deny");
    if version_of(&program).as_deref() == Some(CARGO_DENY_VERSION) {
        return Ok(program);
    }
    // Its own target folder, so that an interrupted build goes on where it stopped.
    let build = folder.join("build");
    log.run(
        Command::new("cargo")
            .args(["install", "--locked", "--force", "cargo-deny", "--version"])
            .arg(CARGO_DENY_VERSION)
            .arg("--root")
            .arg(&folder)
            .arg("--target-dir")
            .arg(&build),
    )
    .context("cannot install cargo-deny; it is fetched over the network once")?;
    std::fs::remove_dir_all(&build)
        .with_context(|| format!("cannot remove {}", build.display()))?;
    Ok(program)
}

/// The second word of `PROGRAM --version`.
fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    String::from_utf8(output.stdout)
        .ok()?
        .split_whitespace()
        .nth(1)
        .map(ToOwned::to_owned)
}
