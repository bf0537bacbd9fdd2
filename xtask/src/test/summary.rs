//! The table at the end of a test run, and the line that counts.

use std::fmt;

use super::count::Counts;
use crate::console;

/// How a step ended.
pub(super) enum Outcome {
    Passed {
        counts: Counts,
    },
    Failed {
        why: String,
        counts: Counts,
    },
    /// It cannot run on this machine (never under CI).
    Skipped {
        why: String,
    },
    /// It belongs to the slow tier, and the run is a quick one.
    LeftOut,
}

impl Outcome {
    /// The failure of a step that ran no test.
    pub(super) fn failed(why: String) -> Self {
        Self::Failed {
            why,
            counts: Counts::default().with_failure(),
        }
    }

    fn counts(&self) -> Counts {
        match self {
            Self::Passed { counts } | Self::Failed { counts, .. } => *counts,
            Self::Skipped { .. } | Self::LeftOut => Counts::default(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { counts } => {
                write!(formatter, "ok, {} passed", counts.passed)?;
                if counts.skipped > 0 {
                    write!(formatter, ", {} skipped", counts.skipped)?;
                }
                Ok(())
            }
            Self::Failed { why, counts } => {
                // An error may go on over several lines; the log has them all.
                let why = why.lines().next().unwrap_or_default();
                write!(
                    formatter,
                    "FAILED, {} passed, {} failed: {why}",
                    counts.passed, counts.failed
                )
            }
            Self::Skipped { why } => write!(formatter, "skipped: {why}"),
            Self::LeftOut => formatter.write_str("left out (--quick)"),
        }
    }
}

/// A line of the table.
pub(super) struct Row {
    pub(super) step: &'static str,
    pub(super) outcome: Outcome,
    /// Wall clock.
    pub(super) seconds: f64,
}

/// Prints the table and, as the very last line, `N passed, N failed`.
pub(super) fn print(rows: &[Row], quick: bool) {
    for line in lines(rows, quick) {
        console::result(&line);
    }
}

fn lines(rows: &[Row], quick: bool) -> Vec<String> {
    let width = rows
        .iter()
        .map(|row| row.step.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut lines = vec![String::new(), format!("{:width$}  seconds  result", "step")];
    lines.extend(
        rows.iter()
            .map(|row| format!("{:width$}  {:>7.1}  {}", row.step, row.seconds, row.outcome)),
    );
    if quick {
        lines.push(String::new());
        lines.push("--quick also left out the tests that are marked slow.".into());
    }
    let (passed, failed) = rows
        .iter()
        .map(|row| row.outcome.counts())
        .fold((0, 0), |(passed, failed), counts| {
            (passed + counts.passed, failed + counts.failed)
        });
    lines.push(String::new());
    lines.push(format!("{passed} passed, {failed} failed"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let counts = |passed, failed| Counts {
            passed,
            failed,
            skipped: 0,
        };
        let row = |step, outcome| Row {
            step,
            outcome,
            seconds: 1.25,
        };
        vec![
            row(
                "rust",
                Outcome::Passed {
                    counts: counts(41, 0),
                },
            ),
            row(
                "python",
                Outcome::Failed {
                    why: "pytest\n  log".into(),
                    counts: counts(7, 2),
                },
            ),
            row("deny", Outcome::failed("no network".into())),
            row(
                "deploy",
                Outcome::Skipped {
                    why: "missing: systemd".into(),
                },
            ),
            row("e2e", Outcome::LeftOut),
        ]
    }

    #[test]
    fn the_last_line_counts_every_test() {
        assert_eq!(lines(&rows(), false).last().unwrap(), "48 passed, 3 failed");
    }

    #[test]
    fn every_step_has_one_row_that_says_how_it_ended() {
        let table = lines(&rows(), true);
        let row = |step: &str| {
            table
                .iter()
                .find(|line| line.starts_with(step))
                .unwrap()
                .clone()
        };
        assert!(
            row("rust").contains("1.2  ok, 41 passed"),
            "{}",
            row("rust")
        );
        assert!(row("python").ends_with("FAILED, 7 passed, 2 failed: pytest"));
        assert!(row("deploy").ends_with("skipped: missing: systemd"));
        assert!(row("e2e").ends_with("left out (--quick)"));
        assert!(table.iter().any(|line| line.contains("marked slow")));
    }
}
