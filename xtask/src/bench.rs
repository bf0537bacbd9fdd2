//! `cargo xtask bench NAME`: measurements of the project, one module each.
//!
//! A benchmark prints a table and saves what it found as `target/bench/NAME.json`. What it says of
//! time are ratios of things measured in one run: a bare duration depends on the machine.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;

mod dask;
mod mesh;
mod place;

use dask::Benchmark;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Speed of the mesh beside other user-space WireGuards, between two hosts joined by veth
    Mesh(mesh::Arguments),
    /// Memory that the chunks of reductions take up, with pins and without
    Peak(dask::Arguments),
    /// Time and memory of the placement of graphs of up to a million tasks
    Place(place::Arguments),
    /// Bytes that cross between sites, with fed and with stock Dask, beside the fewest that can
    Placement(dask::Arguments),
    /// Short tasks per second at a site that is far away, beside the same site next door
    Saturation(dask::Arguments),
    /// Tasks per second of a scheduler with fed's extension, beside a stock one
    Scheduler(dask::Arguments),
}

const PEAK: Benchmark = Benchmark {
    name: "peak",
    has_hosts: false,
};
const PLACEMENT: Benchmark = Benchmark {
    name: "placement",
    has_hosts: true,
};
const SATURATION: Benchmark = Benchmark {
    name: "saturation",
    has_hosts: true,
};
const SCHEDULER: Benchmark = Benchmark {
    name: "scheduler",
    has_hosts: false,
};

/// Runs a benchmark; the exit code is 1 when something is beyond what the project promises.
///
/// # Errors
/// When it cannot be run.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.bench {
        Bench::Mesh(arguments) => mesh::run(root, arguments),
        Bench::Peak(arguments) => dask::run(root, &PEAK, arguments),
        Bench::Place(arguments) => place::run(root, arguments),
        Bench::Placement(arguments) => dask::run(root, &PLACEMENT, arguments),
        Bench::Saturation(arguments) => dask::run(root, &SATURATION, arguments),
        Bench::Scheduler(arguments) => dask::run(root, &SCHEDULER, arguments),
    }
}

/// Saves what a benchmark found, as `target/bench/NAME.json`.
fn save(root: &Path, name: &str, found: &impl Serialize) -> Result<()> {
    let path = root.join("target/bench").join(name).with_extension("json");
    let folder = path.parent().expect("a joined path has a parent");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, serde_json::to_string_pretty(found)? + "\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}
