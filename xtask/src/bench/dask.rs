//! Benchmarks on real Dask clusters, which are Python modules of `tests/bench`.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::{console, environment};

/// A benchmark that is a module of `tests/bench` of the same name.
pub(super) struct Benchmark {
    pub(super) name: &'static str,
    /// Whether it runs federations in hosts.
    pub(super) has_hosts: bool,
}

/// Options of a benchmark on real Dask clusters.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Options of the benchmark itself; `-- --help` lists them
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Runs a benchmark, which prints its table and writes `target/bench/NAME.json`; the exit code is 1
/// when something is beyond what the project promises.
///
/// # Errors
/// When it cannot be built or started.
pub(super) fn run(root: &Path, benchmark: &Benchmark, arguments: &Arguments) -> Result<ExitCode> {
    let venv = environment::ensure(root)?;
    if benchmark.has_hosts {
        console::progress("building fed");
        let build = ["build", "--locked", "-p", "fed-cli", "-p", "fed-testkit"];
        let status = Command::new("cargo").args(build).current_dir(root).status();
        ensure!(
            status.context("cannot start cargo")?.success(),
            "fed cannot be built"
        );
    }
    let report = format!("target/bench/{}.json", benchmark.name);
    let status = venv
        .module(&format!("tests.bench.{}", benchmark.name))
        .args(["--output", &report])
        .args(&arguments.rest)
        .env(
            "PYTHONPATH",
            format!("crates/fed-python/python:{}", root.display()),
        )
        .current_dir(root)
        .status()
        .with_context(|| format!("cannot start the benchmark {}", benchmark.name))?;
    console::result(&report);
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
