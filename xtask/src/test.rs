//! `cargo xtask test`: every test and check there is, one step after another.
//!
//! A failing step does not stop the others. Under `CI=true` nothing is skipped: a step that cannot
//! run has failed, and so has one with a skipped test.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::environment::{self, Venv};
use crate::process::Log;
use crate::{console, packages};

mod count;
mod steps;
mod summary;

use count::Counts;
use steps::{Step, Tier};
use summary::{Outcome, Row};

/// Lines of a failed step's log that are shown.
const TAIL: usize = 40;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The developer's loop: leave out the slow steps and the tests marked slow
    #[arg(long)]
    quick: bool,
    /// Repeat what may grow with time: 200 rounds of up and down instead of a few
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Run this step alone (may be given more than once)
    #[arg(long, value_name = "STEP", value_parser = steps::names())]
    only: Vec<String>,
    /// Run the tests whose name contains NAME, and no checks
    #[arg(short = 'k', value_name = "NAME")]
    filter: Option<String>,
}

/// What the steps know of the run.
struct Ground {
    root: PathBuf,
    quick: bool,
    long: bool,
    ci: bool,
    filter: Option<String>,
    venv: OnceCell<Venv>,
}

impl Ground {
    /// The Python environment, made at first use.
    fn venv(&self) -> Result<&Venv> {
        if let Some(venv) = self.venv.get() {
            return Ok(venv);
        }
        let venv = environment::ensure(&self.root)?;
        Ok(self.venv.get_or_init(|| venv))
    }
}

/// Runs `cargo xtask test` and gives exit code 1 when a step failed.
///
/// # Errors
/// When `--only` names no step that the other options leave, or a log cannot be created.
pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<ExitCode> {
    let ground = Ground {
        root: root.to_path_buf(),
        quick: arguments.quick,
        long: arguments.long,
        ci: is_ci(std::env::var("CI").ok().as_deref()),
        filter: arguments.filter.clone(),
        venv: OnceCell::new(),
    };
    let chosen: Vec<_> = steps::ALL
        .iter()
        .filter(|step| is_chosen(step, arguments))
        .collect();
    if chosen.is_empty() {
        bail!("nothing to run: -k runs test steps only, and --only names none of them");
    }
    let mut rows = Vec::new();
    for (index, step) in chosen.iter().enumerate() {
        console::progress(&format!(
            "[{:>2}/{}] {}",
            index + 1,
            chosen.len(),
            step.name
        ));
        let row = run_step(&ground, step)?;
        console::progress(&format!("       {} in {:.1} s", row.outcome, row.seconds));
        rows.push(row);
    }
    summary::print(&rows, ground.quick);
    let failed = rows
        .iter()
        .any(|row| matches!(row.outcome, Outcome::Failed { .. }));
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn is_chosen(step: &Step, arguments: &Arguments) -> bool {
    let named = arguments.only.is_empty() || arguments.only.iter().any(|name| name == step.name);
    let filtered = arguments.filter.is_none() || step.count.is_some();
    named && filtered
}

fn run_step(ground: &Ground, step: &Step) -> Result<Row> {
    let start = Instant::now();
    let outcome = if ground.quick && step.tier == Tier::Slow {
        Outcome::LeftOut
    } else {
        attempt(ground, step)?
    };
    Ok(Row {
        step: step.name,
        outcome,
        seconds: start.elapsed().as_secs_f64(),
    })
}

fn attempt(ground: &Ground, step: &Step) -> Result<Outcome> {
    let absent: Vec<_> = step
        .packages
        .iter()
        .copied()
        .filter(|package| !package.is_present())
        .collect();
    if !absent.is_empty() {
        let why = packages::advice(&absent);
        return Ok(if ground.ci {
            Outcome::failed(why)
        } else {
            Outcome::Skipped { why }
        });
    }
    let path = ground
        .root
        .join("target/test-logs")
        .join(format!("{}.log", step.name));
    // The long form runs the same steps, with more to do in each.
    let limit = step.limit * if ground.long { 3 } else { 1 };
    let mut log = Log::create(&path, limit)?;
    let result = (step.action)(ground, &mut log);
    if let Err(error) = &result {
        log.note(&format!("{error:#}"))?;
    }
    let outcome = judge(ground, step, result, &log.text());
    if let Outcome::Failed { .. } = outcome {
        console::progress(&format!("       {} ends:", path.display()));
        for line in log.tail(TAIL) {
            console::progress(&format!("       | {line}"));
        }
    }
    Ok(outcome)
}

/// Makes an outcome of a step's exit and of the tests that its log counts.
fn judge(ground: &Ground, step: &Step, result: Result<()>, log: &str) -> Outcome {
    let Some(count) = step.count else {
        return match result {
            Ok(()) => Outcome::Passed {
                counts: Counts::one_passed(),
            },
            Err(error) => Outcome::failed(format!("{error:#}")),
        };
    };
    let counts = count(log);
    match result {
        Err(error) => Outcome::Failed {
            why: format!("{error:#}"),
            counts: counts.with_failure(),
        },
        Ok(()) if counts.failed > 0 => Outcome::Failed {
            why: "tests failed but the command did not".into(),
            counts,
        },
        Ok(()) if counts.skipped > 0 && ground.ci => Outcome::Failed {
            why: format!(
                "{} tests were skipped, and CI skips nothing",
                counts.skipped
            ),
            counts: counts.with_failure(),
        },
        Ok(()) if counts.passed == 0 && ground.filter.is_none() => {
            Outcome::failed("no test was run".into())
        }
        Ok(()) => Outcome::Passed { counts },
    }
}

/// Whether the variable `CI` says so: set, and to none of the usual words for no.
fn is_ci(value: Option<&str>) -> bool {
    value.is_some_and(|value| !matches!(value, "" | "0" | "false" | "no"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground(ci: bool) -> Ground {
        Ground {
            root: PathBuf::new(),
            quick: false,
            long: false,
            ci,
            filter: None,
            venv: OnceCell::new(),
        }
    }

    fn step() -> &'static Step {
        steps::ALL.iter().find(|step| step.name == "rust").unwrap()
    }

    const GOOD: &str = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured";
    const IGNORED: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured";

    fn failed(outcome: &Outcome) -> Option<Counts> {
        match outcome {
            Outcome::Failed { counts, .. } => Some(*counts),
            Outcome::Passed { .. } | Outcome::Skipped { .. } | Outcome::LeftOut => None,
        }
    }

    #[test]
    fn a_good_log_and_a_good_exit_pass() {
        assert_eq!(failed(&judge(&ground(true), step(), Ok(()), GOOD)), None);
    }

    #[test]
    fn a_bad_exit_fails_and_counts_even_where_no_test_failed() {
        let outcome = judge(&ground(false), step(), Err(anyhow::anyhow!("no")), GOOD);
        assert_eq!(
            failed(&outcome).map(|counts| (counts.passed, counts.failed)),
            Some((3, 1))
        );
    }

    #[test]
    fn a_skipped_test_fails_in_ci_alone() {
        assert_eq!(
            failed(&judge(&ground(false), step(), Ok(()), IGNORED)),
            None
        );
        assert!(failed(&judge(&ground(true), step(), Ok(()), IGNORED)).is_some());
    }

    #[test]
    fn a_run_without_tests_fails() {
        assert!(failed(&judge(&ground(false), step(), Ok(()), "nothing here")).is_some());
    }

    #[test]
    fn the_usual_values_of_ci_are_understood() {
        assert!(is_ci(Some("true")) && is_ci(Some("1")));
        assert!(!is_ci(None) && !is_ci(Some("")) && !is_ci(Some("false")));
    }
}
