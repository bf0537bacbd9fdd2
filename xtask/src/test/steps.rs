//! The steps of a test run: cheap and independent ones first.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;

use super::Ground;
use super::count::{self, Counts};
use crate::packages::{self, Package};
use crate::process::Log;
use crate::{proto, tools};

/// When a step runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    Always,
    /// Left out by `--quick`.
    Slow,
}

/// One step: what it runs, and how its log counts tests.
pub(super) struct Step {
    /// Name in the summary, of its log file, and for `--only`.
    pub(super) name: &'static str,
    pub(super) tier: Tier,
    /// Wall clock after which its commands are killed.
    pub(super) limit: Duration,
    /// Debian packages without which it cannot run.
    pub(super) packages: &'static [&'static Package],
    /// Counts the tests in its log; a step without tests is one check.
    pub(super) count: Option<fn(&str) -> Counts>,
    pub(super) action: fn(&Ground, &mut Log) -> Result<()>,
}

/// Every step, in the order of a run.
pub(super) const ALL: &[Step] = &[
    check("packages", 10, debian_packages),
    check("rustfmt", 2, rustfmt),
    check("environment", 15, python_environment),
    check("ruff", 2, ruff),
    check("mypy", 5, mypy),
    check("deny", 20, cargo_deny),
    check("proto", 2, proto_is_fresh),
    Step {
        packages: &[&packages::SYSTEMD],
        ..pytest("deploy", Tier::Always, 5, |ground, log| {
            run_pytest(ground, log, "tests/deploy")
        })
    },
    check("clippy", 30, clippy),
    Step {
        count: Some(count::cargo_test),
        ..check("rust", 40, rust_tests)
    },
    pytest("python", Tier::Always, 15, |ground, log| {
        run_pytest(ground, log, "tests/python")
    }),
    pytest("e2e", Tier::Slow, 45, end_to_end),
];

/// The names that `--only` takes.
pub(super) fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(ALL.iter().map(|step| step.name))
}

const fn check(
    name: &'static str,
    minutes: u64,
    action: fn(&Ground, &mut Log) -> Result<()>,
) -> Step {
    let limit = Duration::from_secs(minutes * 60);
    Step {
        name,
        tier: Tier::Always,
        limit,
        packages: &[],
        count: None,
        action,
    }
}

const fn pytest(
    name: &'static str,
    tier: Tier,
    minutes: u64,
    action: fn(&Ground, &mut Log) -> Result<()>,
) -> Step {
    Step {
        tier,
        count: Some(count::pytest),
        ..check(name, minutes, action)
    }
}

fn cargo(ground: &Ground, arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(&ground.root);
    command
}

/// Installs what is missing; without the right to, only CI minds, and the steps that need a package
/// say so themselves.
fn debian_packages(ground: &Ground, log: &mut Log) -> Result<()> {
    let missing = packages::missing(packages::ALL);
    if missing.is_empty() {
        return log.note("all Debian packages that the tests need are there");
    }
    let advice = packages::advice(&missing);
    match packages::installation(&missing) {
        Some(commands) => {
            let result = log.run_all(commands);
            if !packages::missing(packages::ALL).is_empty() {
                result?;
                bail!("{advice}");
            }
            Ok(())
        }
        None if ground.ci => bail!("{advice}"),
        None => {
            crate::console::progress(&format!("       {advice}"));
            log.note(&advice)
        }
    }
}

fn rustfmt(ground: &Ground, log: &mut Log) -> Result<()> {
    log.run(&mut cargo(
        ground,
        &["fmt", "--all", "--", "--check", "--color", "never"],
    ))
    .context("run `cargo fmt --all` and commit the result")
}

fn python_environment(ground: &Ground, log: &mut Log) -> Result<()> {
    let python = ground.venv()?.python();
    log.note(&format!("{} is ready", python.display()))
}

fn ruff(ground: &Ground, log: &mut Log) -> Result<()> {
    let command = |arguments: &[&str]| -> Result<Command> {
        let mut command = ground.venv()?.module("ruff");
        command.args(arguments).current_dir(&ground.root);
        Ok(command)
    };
    log.run_all([
        command(&["check", "."])?,
        command(&["format", "--check", "."])?,
    ])
    .context("try `target/venv/bin/ruff check --fix` and `target/venv/bin/ruff format`")
}

fn mypy(ground: &Ground, log: &mut Log) -> Result<()> {
    log.run(ground.venv()?.module("mypy").current_dir(&ground.root))
}

fn cargo_deny(ground: &Ground, log: &mut Log) -> Result<()> {
    let program = tools::cargo_deny(&ground.root, log)?;
    log.run(
        Command::new(program)
            .args([
                "--locked",
                "check",
                "--hide-inclusion-graph",
                "bans",
                "licenses",
                "sources",
            ])
            .current_dir(&ground.root),
    )
}

fn proto_is_fresh(ground: &Ground, log: &mut Log) -> Result<()> {
    proto::check(&ground.root)?;
    log.note("the committed code is what `cargo xtask proto` would write")
}

fn clippy(ground: &Ground, log: &mut Log) -> Result<()> {
    let arguments = [
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--keep-going",
        "--",
        "-Dwarnings",
    ];
    log.run(&mut cargo(ground, &arguments))
}

/// Tells tests that the long form runs.
const LONG: &str = "FED_TEST_LONG";

/// Slow Rust tests are `#[ignore = "slow: …"]`, which the full run includes.
fn rust_tests(ground: &Ground, log: &mut Log) -> Result<()> {
    let mut command = cargo(
        ground,
        &["test", "--locked", "--workspace", "--no-fail-fast", "--"],
    );
    if !ground.quick {
        command.arg("--include-ignored");
    }
    command.args(&ground.filter);
    if ground.long {
        command.env(LONG, "1");
    }
    log.run(&mut command)
}

/// The tests start the programs `fed` and `fed-lab` from `target/debug`.
fn end_to_end(ground: &Ground, log: &mut Log) -> Result<()> {
    let arguments = [
        "build",
        "--locked",
        "--package",
        "fed-cli",
        "--package",
        "fed-testkit",
    ];
    log.run(&mut cargo(ground, &arguments))?;
    run_pytest(ground, log, "tests/e2e")
}

/// Slow Python tests bear `@pytest.mark.slow`.
fn run_pytest(ground: &Ground, log: &mut Log, folder: &str) -> Result<()> {
    require_folder(&ground.root, folder)?;
    let mut command = ground.venv()?.module("pytest");
    command
        .args(["-ra", "--durations=5", folder])
        .current_dir(&ground.root);
    if ground.quick {
        command.args(["-m", "not slow"]);
    }
    if ground.long {
        command.env(LONG, "1");
    }
    if let Some(name) = &ground.filter {
        command.args(["-k", name]);
    }
    let status = log.status(&mut command)?;
    // Exit status 5: no test was selected, which is all right where a name selects.
    if status.success() || (status.code() == Some(5) && ground.filter.is_some()) {
        return Ok(());
    }
    bail!("pytest {folder} ended with {status}")
}

fn require_folder(root: &Path, folder: &str) -> Result<()> {
    if !root.join(folder).is_dir() {
        bail!("the folder {folder} is missing, and its tests with it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own() {
        let names: BTreeSet<_> = ALL.iter().map(|step| step.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn every_folder_of_python_tests_has_a_step() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
        for folder in std::fs::read_dir(tests).unwrap() {
            let folder = folder.unwrap().path();
            let holds_tests = folder.is_dir()
                && std::fs::read_dir(&folder).unwrap().any(|file| {
                    let name = file.unwrap().file_name().into_string().unwrap();
                    name.starts_with("test_") && name.ends_with(".py")
                });
            let name = folder.file_name().unwrap().to_str().unwrap();
            assert!(
                !holds_tests || ALL.iter().any(|step| step.name == name),
                "tests/{name} holds pytest files: add a step {name} to ALL in {}",
                file!()
            );
        }
    }
}
