//! What the demonstration stands on: fed itself, the Python environment, the data, its folders.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use fed_testkit::Host;
use serde::Deserialize;

use super::interrupt::Interrupt;
use super::{Arguments, Profile, program};
use crate::console;
use crate::environment::{self, Venv};

/// Building fed from nothing, on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(45 * 60);
/// Writing 2.9 GB, and reading them.
const SCRIPT_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The scripts of the demonstration.
const SCRIPTS: &str = "xtask/src/demo";
/// Written after the data, and so the mark of its being complete.
const COMPLETE: &str = "complete";

/// How far a result is from that of plain xarray, in K.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Difference {
    /// The federation's.
    pub(super) federated: f64,
    /// The old way's.
    pub(super) remote_read: f64,
    /// What rounding can explain.
    pub(super) rounding: f64,
}

/// Everything that does not depend on the hosts.
pub(super) struct Ground {
    root: PathBuf,
    output: PathBuf,
    data: PathBuf,
    fed: PathBuf,
    venv: Venv,
    python: PathBuf,
    interrupt: Interrupt,
}

impl Ground {
    /// Builds fed, makes the Python environment and the data, where they are missing.
    ///
    /// # Errors
    /// If one of them cannot be made.
    pub(super) fn prepare(
        root: &Path,
        arguments: &Arguments,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let output = root.join("target/demo");
        std::fs::create_dir_all(&output)
            .with_context(|| format!("cannot make {}", output.display()))?;
        File::create(output.join("demo.log")).context("cannot write target/demo/demo.log")?;
        let fed = match &arguments.fed {
            Some(path) => std::path::absolute(path)?,
            None => build(root, arguments.profile, interrupt)?,
        };
        console::progress("the Python environment in target/venv");
        let venv = environment::ensure(root)?;
        let python = venv.python();
        let size = if arguments.full { "full" } else { "small" };
        let ground = Self {
            root: root.to_path_buf(),
            data: output.join("data").join(size),
            output,
            fed,
            venv,
            python,
            interrupt: interrupt.clone(),
        };
        ground.generate(if arguments.full {
            ["960", "1280"]
        } else {
            ["240", "320"]
        })?;
        Ok(ground)
    }

    /// The folder of everything the demonstration writes.
    pub(super) fn output(&self) -> &Path {
        &self.output
    }

    /// The folder with a folder of data for each site.
    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    /// The interpreter of everybody.
    pub(super) fn python(&self) -> &Path {
        &self.python
    }

    /// The example that users read.
    pub(super) fn example(&self) -> PathBuf {
        self.root.join("examples/two_sites.py")
    }

    /// Whether to stop.
    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// An empty folder for the results of one way to calculate.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn results(&self, way: &str) -> Result<PathBuf> {
        let folder = self.output.join("results").join(way);
        renew(&folder)?;
        Ok(folder)
    }

    /// The command `fed` in a host, its standard error in the demonstration's log.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub(super) fn fed(&self, host: &Host) -> Result<Command> {
        self.logged(host.command(&self.fed))
    }

    /// A script of the demonstration in a host, its standard error in the demonstration's log.
    ///
    /// # Errors
    /// If the log cannot be written.
    pub(super) fn script(&self, host: &Host, name: &str) -> Result<Command> {
        let mut command = self.logged(host.command(&self.python))?;
        command.arg(self.root.join(SCRIPTS).join(name));
        Ok(command)
    }

    /// Calculates with plain xarray on this machine.
    ///
    /// # Errors
    /// If that fails.
    pub(super) fn reference(&self) -> Result<()> {
        let mut command = self.here("reference.py")?;
        command
            .arg(self.example())
            .arg(&self.data)
            .arg(self.results("reference")?);
        self.finish("plain xarray", &mut command).map(drop)
    }

    /// Compares all results with those of plain xarray, and draws the map.
    ///
    /// # Errors
    /// If a result is missing.
    pub(super) fn compare(&self) -> Result<BTreeMap<String, Difference>> {
        let mut command = self.here("compare.py")?;
        command
            .arg(self.output.join("results"))
            .arg(self.output.join("difference.png"));
        let text = self.finish("the comparison", &mut command)?;
        serde_json::from_str(&text)
            .with_context(|| format!("the comparison said {text:?}, which is not understood"))
    }

    fn generate(&self, size: [&str; 2]) -> Result<()> {
        let complete = self.data.join(COMPLETE);
        let script = self.root.join(SCRIPTS).join("generate.py");
        let recipe = std::fs::read_to_string(&script)
            .with_context(|| format!("cannot read {}", script.display()))?;
        if std::fs::read_to_string(&complete).is_ok_and(|made_by| made_by == recipe) {
            return Ok(());
        }
        console::progress("the data of both sites in target/demo/data (once)");
        renew(&self.data)?;
        let mut command = self.here("generate.py")?;
        command.arg(&self.data).args(size);
        self.finish("making the data", &mut command)?;
        std::fs::write(&complete, recipe)
            .with_context(|| format!("cannot write {}", complete.display()))
    }

    fn here(&self, name: &str) -> Result<Command> {
        let mut command = self.logged(Command::new(self.venv.python()))?;
        command.arg(self.root.join(SCRIPTS).join(name));
        Ok(command)
    }

    fn finish(&self, name: &str, command: &mut Command) -> Result<String> {
        program::output(name, command, None, SCRIPT_LIMIT, &self.interrupt)
    }

    fn logged(&self, mut command: Command) -> Result<Command> {
        let path = self.output.join("demo.log");
        let log = OpenOptions::new().append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        command.stderr(Stdio::from(log));
        Ok(command)
    }
}

fn build(root: &Path, profile: Profile, interrupt: &Interrupt) -> Result<PathBuf> {
    let (name, folder) = match profile {
        Profile::Dev => ("dev", "debug"),
        Profile::Release => ("release", "release"),
    };
    console::progress("building fed");
    let target = root.join("target");
    let mut command = Command::new("cargo");
    command
        .current_dir(root)
        .args(["build", "--package", "fed-cli", "--profile", name])
        .arg("--target-dir")
        .arg(&target);
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    program::output("cargo build", &mut command, None, BUILD_LIMIT, interrupt)?;
    Ok(target.join(folder).join("fed"))
}

/// Makes an empty folder, in place of what was there.
fn renew(folder: &Path) -> Result<()> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}
