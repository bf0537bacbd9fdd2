//! `cargo xtask demo`: the main job on one machine.
//!
//! Three hosts joined by an emulated WAN; the federation comes up, two calculations run in it and
//! then the old way, over HTTP. Whatever ends this process ends every process in the hosts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use fed_testkit::Lab;
use fed_testkit::wan::LinkSpec;

use crate::console;

mod conversation;
mod federation;
mod ground;
mod interrupt;
mod measure;
mod old_way;
mod program;
mod report;
mod site;
mod table;

use federation::Federation;
use ground::Ground;
use interrupt::Interrupt;
use report::{Calculation, Report};

/// The operator's host.
const OPERATOR: &str = "operator";
/// The sites, each a host with data of its own.
const SITES: [&str; 2] = ["ecmwf", "eumetsat"];
/// The calculations, by their names in the example.
const CALCULATIONS: [&str; 2] = ["scenarios", "predictions"];
/// Workers of each site.
const WORKERS_PER_SITE: u32 = 2;

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Predictions of the original's size: 960 × 1280 points, 2.9 GB
    #[arg(long)]
    full: bool,
    /// Delay of the WAN one way, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 20)]
    delay: u64,
    /// Rate of the WAN from one host to another, in Mbit/s
    #[arg(long, value_name = "MBIT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// How fed itself is built
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Run this fed instead of building one
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    fed: Option<PathBuf>,
}

/// A profile of cargo.
#[derive(Clone, Copy, ValueEnum)]
enum Profile {
    Dev,
    Release,
}

/// Runs the demonstration; the exit code is 1 when something was wrong in what it found.
///
/// To be called while this process has one thread.
///
/// # Errors
/// When a step fails, or on Ctrl-C or SIGTERM. All hosts have ended then.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<ExitCode> {
    fed_testkit::enter()?;
    let interrupt = Interrupt::install()?;
    let result = demonstrate(root, arguments, &interrupt);
    interrupt.check()?;
    let report = result?;
    let problems = table::print(&report);
    Ok(if problems == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn demonstrate(root: &Path, arguments: &Arguments, interrupt: &Interrupt) -> Result<Report> {
    let ground = Ground::prepare(root, arguments, interrupt)?;
    console::progress("plain xarray on one host, for comparison");
    ground.reference()?;
    let lab = start_lab(&ground, arguments)?;
    console::progress("enrolling the operator at both sites");
    let federation = Federation::enrol(&ground, &lab)?;
    console::progress("$ fed up ecmwf eumetsat");
    let up_seconds = federation.up()?;
    console::progress(&format!("up in {up_seconds:.1} s; warming up a client"));
    let federated = federation.calculate()?;
    console::progress("$ fed down");
    let leftovers = federation.down()?;
    console::progress("the old way: the operator's xarray reads the files over the WAN");
    let remote_read = old_way::calculate(&ground, &lab)?;
    drop(lab);
    let errors = ground.compare()?;
    let report = Report {
        up_seconds,
        workers: WORKERS_PER_SITE * u32::try_from(SITES.len())?,
        calculations: calculations(federated, remote_read, &errors)?,
        leftovers,
    };
    report.write(&ground.output().join("report.json"))?;
    Ok(report)
}

fn start_lab(ground: &Ground, arguments: &Arguments) -> Result<Lab> {
    console::progress(&format!(
        "three hosts on a WAN of {} ms one way and {} Mbit/s: {OPERATOR}, {}",
        arguments.delay,
        arguments.rate,
        SITES.join(", ")
    ));
    let link = LinkSpec::new(
        Duration::from_millis(arguments.delay),
        arguments.rate * 1_000_000,
    );
    let mut lab = Lab::builder().host(OPERATOR).wan(link);
    for name in SITES {
        let data = ground.data().join(name);
        lab = lab
            .host(name)
            .bind_read_only(name, data, format!("/data/{name}"));
    }
    lab.start().context("cannot start the hosts")
}

fn calculations(
    federated: Vec<federation::Outcome>,
    remote_read: Vec<old_way::Outcome>,
    errors: &BTreeMap<String, ground::Difference>,
) -> Result<Vec<Calculation>> {
    let both = federated.into_iter().zip(remote_read);
    CALCULATIONS
        .into_iter()
        .zip(both)
        .map(|(name, (federated, remote_read))| {
            let difference = errors
                .get(name)
                .with_context(|| format!("nothing was compared for {name}"))?;
            Ok(Calculation::new(name, federated, remote_read, difference))
        })
        .collect()
}
