//! `cargo xtask chaos`: takes parts from federations, and writes docs/reliability.md from what their
//! users saw.
//!
//! The rows and what is expected of them are `tests/e2e/chaos` and `tests/e2e/test_chaos.py`, which
//! run with every test; this command runs them alone and keeps what they measured.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::console;
use crate::environment;
use crate::process::Log;

/// Where the tests write what they measured.
const RECORD: &str = "target/chaos/record.jsonl";
/// The report.
const REPORT: &str = "docs/reliability.md";
/// Time for all of it, builds included.
const LIMIT: Duration = Duration::from_secs(30 * 60);
/// What a cell of the report holds at most, in characters.
const CELL: usize = 120;

/// What one row measured, as the tests write it.
#[derive(Debug, Deserialize)]
struct Row {
    what: String,
    when: String,
    saw: String,
    answer_seconds: f64,
    clean_seconds: f64,
}

/// Runs the rows and writes the report; the exit code is 1 when one was not as expected.
///
/// # Errors
/// When the programs cannot be built, or a file cannot be written.
pub(crate) fn run(root: &Path) -> Result<ExitCode> {
    let venv = environment::ensure(root)?;
    let record = root.join(RECORD);
    let folder = record.parent().expect("a joined path has a parent");
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(&record, "").with_context(|| format!("cannot write {}", record.display()))?;
    let mut log = Log::create(&root.join("target/chaos/log"), LIMIT)?;
    console::progress("building fed, and taking parts from federations (about ten minutes)");
    let build = ["build", "--locked", "-p", "fed-cli", "-p", "fed-testkit"];
    log.run(Command::new("cargo").args(build).current_dir(root))?;
    let mut tests = venv.module("pytest");
    tests
        // The report itself is made below.
        .args(["-ra", "tests/e2e/test_chaos.py", "-k", "not report"])
        .env("FED_CHAOS_RECORD", &record)
        .current_dir(root);
    let status = log.status(&mut tests)?;
    let rows = read(&record)?;
    for row in &rows {
        console::progress(&format!("{} ({}): {}", row.what, row.when, cell(&row.saw)));
    }
    if !status.success() {
        console::progress(&format!(
            "some rows were not as expected, so {REPORT} stays as it is; see {}",
            log.path().display()
        ));
        return Ok(ExitCode::FAILURE);
    }
    let report = root.join(REPORT);
    std::fs::write(&report, text(&rows))
        .with_context(|| format!("cannot write {}", report.display()))?;
    console::progress(&format!("wrote {REPORT}"));
    Ok(ExitCode::SUCCESS)
}

fn read(record: &Path) -> Result<Vec<Row>> {
    let lines = std::fs::read_to_string(record)
        .with_context(|| format!("cannot read {}", record.display()))?;
    lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no row: {line}")))
        .collect()
}

fn text(rows: &[Row]) -> String {
    let mut text = String::from(HEAD);
    for row in rows {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.0} s | {:.0} s |",
            row.what,
            row.when,
            cell(&row.saw),
            row.answer_seconds.ceil(),
            row.clean_seconds.ceil()
        );
    }
    text.push_str(TAIL);
    text
}

/// What a user saw, short enough for a table, without what differs from run to run.
fn cell(saw: &str) -> String {
    let mut short: String = saw.replace('|', "/").chars().take(CELL).collect();
    if short.len() < saw.len() {
        short.push('…');
    }
    short
}

const HEAD: &str = "\
# Reliability

What happens when a part of a federation is lost, what its user sees then, and how long it takes.
`cargo xtask chaos` makes this page: it brings up a federation of two sites for each row, with a
lease of 10 s (`--lease`), tasks that wait 4 s for a pool without workers (`--pool-timeout`; 60 s
where the only worker of a pool is killed and another starts), and one worker per site; and takes the
part away while the federation comes up, or while tasks run on both sites. With the defaults (5 min
and 10 min) the longer times grow accordingly.

*Answer* is the time until the user has the right answer or one error, *clean* the time until
neither site nor the operator's host has a process, namespace, device, socket or file of the
federation, `fed down` or Ctrl-C included. Every test run checks that each row ends as it stands here.

| what happens | when | what the user sees | answer | clean |
|---|---|---|---|---|
";

const TAIL: &str = "
No row waits for Dask, which takes 30 s to give up on a peer that is silent instead of gone: where UDP
ends, the mesh goes over TLS after about 5 s, and a site whose lease could not be renewed is given up
by the scheduler when a sixth of the lease is left, before the site ends its part. A worker that ends
by itself is replaced within seconds, and a site that was cut off for longer rejoins with new workers
as long as its lease lasts (tests/e2e/test_recovery.py).

A disk that is full ends `fed up` with one error that names the file, and a task that fills its
scratch folder fails alone (tests/e2e/test_full_disk.py). Leases are counted on the monotonic clock: a
wall clock that jumps, even by a year, ends nothing (tests/e2e/test_clocks.py). It is read for the
ends of invitations, for changes of keys, and for logs.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_report_is_one_line_of_five_cells() {
        let row = Row {
            what: "`kill -9` of a worker".into(),
            when: "tasks run".into(),
            saw: format!("Error: a | b{}", "x".repeat(2 * CELL)),
            answer_seconds: 0.2,
            clean_seconds: 9.6,
        };
        let report = text(&[row]);
        let line = report
            .lines()
            .find(|line| line.contains("of a worker"))
            .unwrap();
        assert_eq!(line.matches(" | ").count(), 4);
        assert!(line.ends_with("… | 1 s | 10 s |"), "{line}");
        assert!(line.contains("Error: a / b"));
    }
}
