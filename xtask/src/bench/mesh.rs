//! `cargo xtask bench mesh`: the packet path of a node beside other user-space WireGuards.
//!
//! All implementations stand at once between the same two hosts, which a pair of veth devices
//! joins, and are measured in turn, so that whatever else the machine does meets all of them. What
//! counts are the medians of the ratios of neighbouring runs.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{console, packages};

mod ground;
mod implementation;
mod measure;
mod memory;
mod profile;
mod report;
mod transfer;

use ground::{Ground, Veth};
use implementation::{Implementation, Tunnel};
use measure::{Measured, Test};
use profile::Profile;
use report::Report;

/// Options of `cargo xtask bench mesh`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each run lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=60))]
    seconds: u16,
    /// How often each test runs
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// One more implementation, which COMMAND INTERFACE starts in the foreground, and which is
    /// configured over /var/run/wireguard/INTERFACE.sock (such as wireguard-go='wireguard-go -f')
    #[arg(long, value_name = "NAME=COMMAND", value_parser = implementation::from_command)]
    peer: Vec<Implementation>,
    /// Run this test alone (may be given more than once); ratios that need another are left out
    #[arg(long, value_name = "TEST")]
    only: Vec<Test>,
    /// Say where the time goes under tcp1 and no_offload, and draw flame graphs of them, as
    /// target/bench/mesh-TEST.svg (needs perf)
    #[arg(long)]
    profile: bool,
}

/// The grounds of the tests.
const GROUNDS: [Veth; 3] = [
    Veth {
        name: "standard",
        mtu: 1500,
        inner_mtu: 1420,
        offloads: true,
    },
    Veth {
        name: "plain",
        mtu: 1500,
        inner_mtu: 1420,
        offloads: false,
    },
    Veth {
        name: "jumbo",
        mtu: 9000,
        inner_mtu: 8920,
        offloads: true,
    },
];

/// Measures, prints and saves.
///
/// # Errors
/// When an implementation cannot be had or started, or a run fails.
pub(super) fn run(root: &Path, arguments: &Arguments) -> Result<ExitCode> {
    fed_testkit::enter().context("cannot make hosts")?;
    install_packages()?;
    let tests: Vec<_> = Test::ALL
        .into_iter()
        .filter(|test| arguments.only.is_empty() || arguments.only.contains(test))
        .collect();
    let mut implementations = vec![implementation::fed(root)?];
    if tests != [Test::Dask] {
        implementations.extend(implementation::installed(root)?);
        implementations.extend(arguments.peer.iter().cloned());
    }
    let mut report = Report::default();
    let grounds = GROUNDS
        .iter()
        .filter(|veth| tests.iter().any(|test| test.ground() == veth.name))
        .map(|veth| Ground::start(veth, &implementations))
        .collect::<Result<Vec<_>>>()?;
    for repetition in 1..=arguments.repetitions {
        for test in &tests {
            let mut turns: Vec<_> = tunnels(&grounds, *test).collect();
            // Who comes first may find a rested machine.
            if repetition % 2 == 0 {
                turns.reverse();
            }
            for (name, tunnel) in turns {
                let measured = measure::run(*test, tunnel, arguments.seconds)
                    .with_context(|| format!("{} of {name} failed", test.name()))?;
                progress(repetition, arguments.repetitions, *test, name, measured);
                report.add(name, *test, measured);
            }
        }
    }
    let mut profiles = Vec::new();
    if arguments.profile {
        profiles = record(root, &grounds, &tests, arguments.seconds)?;
    }
    drop(grounds);
    for profile in &profiles {
        profile::draw(root, profile)?;
    }
    if tests.contains(&Test::Dask) {
        for rates in transfer::measure(root, &implementations[0], arguments.repetitions)? {
            report.add(implementation::FED, Test::Dask, Measured::rate(rates.mesh));
            report.add(report::PLAIN, Test::Dask, Measured::rate(rates.plain));
        }
    }
    if arguments.only.is_empty() {
        report.memory(memory::measure(root)?);
    }
    super::save(root, "mesh", &report.to_json())?;
    Ok(report.print())
}

/// Samples ours.
fn record(root: &Path, grounds: &[Ground], tests: &[Test], seconds: u16) -> Result<Vec<Profile>> {
    let profiled = [Test::Tcp1, Test::NoOffload].into_iter();
    let mut profiles = Vec::new();
    for test in profiled.filter(|test| tests.contains(test)) {
        let mut tunnels = tunnels(grounds, test);
        if let Some((_, tunnel)) = tunnels.find(|(name, _)| *name == implementation::FED) {
            profiles.push(profile::record(root, tunnel, test, seconds)?);
        }
    }
    Ok(profiles)
}

/// The tunnels that a test is for.
fn tunnels(grounds: &[Ground], test: Test) -> impl Iterator<Item = (&str, &Tunnel)> {
    let grounds = grounds
        .iter()
        .filter(move |ground| ground.name() == test.ground());
    grounds
        .flat_map(Ground::tunnels)
        .filter(move |(name, _)| test != Test::NoOffload || *name == implementation::FED)
}

fn progress(repetition: u16, of: u16, test: Test, name: &str, measured: Measured) {
    console::progress(&format!(
        "{repetition}/{of}  {:<12}{name:<14}{:>9.3} {}",
        test.name(),
        measured.value,
        test.unit()
    ));
}

fn install_packages() -> Result<()> {
    let missing = packages::missing(packages::BENCH_MESH);
    if missing.is_empty() {
        return Ok(());
    }
    let advice = packages::advice(&missing);
    let Some(commands) = packages::installation(&missing) else {
        bail!("{advice}");
    };
    for mut command in commands {
        ensure!(command.status()?.success(), "{advice}");
    }
    Ok(())
}
