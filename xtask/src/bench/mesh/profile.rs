//! Where the time of a node goes: a flame graph.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::implementation::{Tunnel, install};
use super::measure::{self, Test};
use crate::console;

/// Samples per second: a prime, so that nothing periodic is met always or never.
const FREQUENCY: &str = "997";

/// Draws `target/bench/mesh.svg` of both ends of a tunnel under one TCP connection.
pub(super) fn draw(root: &Path, tunnel: &Tunnel, seconds: u16) -> Result<()> {
    let tools = install(root, "inferno", "0.12.3")?;
    let folder = root.join("target/bench");
    let data = folder.join("mesh.perf");
    let processes: Vec<_> = tunnel
        .ends()
        .iter()
        .flat_map(|end| &end.processes)
        .map(ToString::to_string)
        .collect();
    // It samples by the clock: not every machine has counters of cycles.
    let mut sampling = Command::new("perf")
        .args(["record", "--quiet", "--event=cpu-clock", "-g"])
        .args(["--freq", FREQUENCY, "--pid", &processes.join(",")])
        .arg("--output")
        .arg(&data)
        .args(["--", "sleep", &seconds.to_string()])
        .spawn()
        .context("perf is missing: apt-get install linux-perf")?;
    measure::run(Test::Tcp1, tunnel, seconds)?;
    ensure!(sampling.wait()?.success(), "perf could not sample");
    let mut script = Command::new("perf")
        .arg("script")
        .arg("--input")
        .arg(&data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut collapse = Command::new(tools.join("inferno-collapse-perf"))
        .stdin(script.stdout.take().expect("piped"))
        .stdout(Stdio::piped())
        .spawn()?;
    let drawing = folder.join("mesh.svg");
    let drawn = Command::new(tools.join("inferno-flamegraph"))
        .args(["--title", "both ends of a mesh, one TCP connection"])
        .stdin(collapse.stdout.take().expect("piped"))
        .stdout(std::fs::File::create(&drawing)?)
        .status()?;
    ensure!(
        script.wait()?.success() && collapse.wait()?.success() && drawn.success(),
        "the flame graph cannot be drawn"
    );
    console::progress(&format!("drew {}", drawing.display()));
    Ok(())
}
