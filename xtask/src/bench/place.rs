//! `cargo xtask bench place`: time and memory of `fed-place` on graphs as Dask makes them.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::console;

/// Sizes of the graphs, in tasks.
const TASKS: [u32; 3] = [10_000, 100_000, 1_000_000];
/// The shapes that `fed-place`'s example `measure` knows.
const SHAPES: [&str; 6] = [
    "reduction",
    "elementwise",
    "chains",
    "rechunk",
    "concat",
    "random",
];

/// Options of `cargo xtask bench place`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Number of pools
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pools: u32,
    /// Memory of a graph of a million tasks, in MB, above which the benchmark fails
    #[arg(long, value_name = "MB", default_value_t = 600)]
    memory: u64,
}

/// What the example prints.
#[derive(Debug, Deserialize, Serialize)]
struct Measurement {
    shape: String,
    pools: u32,
    tasks: u32,
    dependencies: u32,
    /// CPU time of the placement.
    seconds: f64,
    /// The most memory of the process, the graph included.
    peak_bytes: u64,
    cost: f64,
    /// Cost of the plain rule: pins kept, the rest where most bytes of their inputs lie.
    plain_cost: f64,
    lower_bound: f64,
}

/// Runs the benchmark; the exit code is 1 when a graph took more memory than it may.
///
/// # Errors
/// When the example cannot be built or run.
pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<ExitCode> {
    console::progress("building fed-place with optimisation");
    cargo(root, &["build"])?;
    console::result(&format!(
        "{:<13}{:>10}{:>14}{:>9}{:>13}{:>8}{:>17}{:>17}",
        "shape",
        "tasks",
        "dependencies",
        "CPU s",
        "ns per task",
        "MB",
        "cost over plain",
        "over the bound"
    ));
    let mut found = Vec::new();
    for shape in SHAPES {
        for tasks in TASKS {
            let output = cargo(
                root,
                &[
                    "run",
                    "--",
                    shape,
                    &tasks.to_string(),
                    &arguments.pools.to_string(),
                ],
            )?;
            let measurement: Measurement = serde_json::from_slice(&output)
                .with_context(|| format!("{shape} of {tasks} tasks printed something else"))?;
            row(&measurement);
            found.push(measurement);
        }
    }
    super::save(root, "place", &found)?;
    console::result("target/bench/place.json");
    let most = found.iter().map(|it| it.peak_bytes).max().unwrap_or(0);
    Ok(if most <= arguments.memory * 1_000_000 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn row(found: &Measurement) {
    let ratio = |of: f64, to: f64| if of == to { 1.0 } else { of / to };
    console::result(&format!(
        "{:<13}{:>10}{:>14}{:>9.3}{:>13.0}{:>8}{:>17.3}{:>17.3}",
        found.shape,
        found.tasks,
        found.dependencies,
        found.seconds,
        found.seconds * 1e9 / f64::from(found.tasks),
        found.peak_bytes / 1_000_000,
        ratio(found.cost, found.plain_cost),
        ratio(found.cost, found.lower_bound),
    ));
}

/// Builds or runs the example `measure`, and gives its standard output.
fn cargo(root: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let (task, rest) = arguments.split_first().context("no task for cargo")?;
    let output = Command::new("cargo")
        .arg(task)
        .args(["--locked", "--release", "--quiet", "--package", "fed-place"])
        .args(["--example", "measure"])
        .args(rest)
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo {} ended with {}", arguments.join(" "), output.status);
    }
    Ok(output.stdout)
}
