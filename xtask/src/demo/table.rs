//! The report for people.

use super::report::{Calculation, Report};
use crate::console;

/// Seconds that `fed up` is expected to take at most.
const UP_SECONDS: f64 = 5.0;
/// Share of the old way's bytes that the predictions are expected to move at most.
const SHARE_OF_BYTES: f64 = 0.01;
/// How many times faster the predictions are expected to be at least.
const SPEED_UP: f64 = 10.0;

/// Prints the report, what was expected, and what is wrong; returns how much is wrong.
pub(super) fn print(report: &Report) -> usize {
    console::result("");
    row(
        "calculation",
        ["way", "seconds", "over the WAN", "link use"],
    );
    for each in &report.calculations {
        calculation(each);
    }
    console::result("");
    for (is_met, text) in expectations(report) {
        let verdict = if is_met { "met   " } else { "MISSED" };
        console::result(&format!("{verdict}  {text}"));
    }
    let problems = report.problems();
    for problem in &problems {
        console::result(&format!("WRONG   {problem}"));
    }
    console::result("");
    console::result("target/demo/difference.png  target/demo/report.json");
    problems.len()
}

fn row(first: &str, cells: [&str; 4]) {
    let [way, seconds, wan, link_use] = cells;
    console::result(&format!(
        "{first:<14}{way:<14}{seconds:>9}  {wan:>12}  {link_use:>9}"
    ));
}

fn calculation(each: &Calculation) {
    let federated = &each.federated;
    let seconds = format!("{:.2}", federated.seconds);
    let wan = bytes(federated.wan_bytes);
    row(each.name, ["federated", &seconds, &wan, ""]);
    let old = &each.remote_read;
    let seconds = format!("{:.2}", old.seconds);
    let wan = bytes(old.wan_bytes);
    let link_use = format!("{:.0} %", old.link_use * 100.0);
    row("", ["remote read", &seconds, &wan, &link_use]);
    let tasks: Vec<_> = each
        .tasks_per_site
        .iter()
        .map(|(site, tasks)| format!("{tasks} at {site}"))
        .collect();
    console::result(&format!(
        "  tasks: {}; foreign reads: {}; steals across pools: {}; largest error: {:.1e} K",
        tasks.join(", "),
        each.foreign_reads,
        each.cross_pool_steals,
        each.max_abs_error
    ));
}

fn expectations(report: &Report) -> Vec<(bool, String)> {
    let up = report.up_seconds;
    let mut lines = vec![(
        up < UP_SECONDS,
        format!(
            "fed up took {up:.1} s for {} workers (under {UP_SECONDS} s)",
            report.workers
        ),
    )];
    for each in &report.calculations {
        let old = &each.remote_read;
        let name = each.name;
        let (moved, size) = (bytes(old.wan_bytes), bytes(old.file_bytes));
        let link_use = old.link_use * 100.0;
        let text = format!(
            "{name}: the old way reads well: {moved} for {size} (at most 1.1 times), {link_use:.0} % of the link (at least 70 %)"
        );
        lines.push((old.counts, text));
    }
    if let Some(predictions) = report
        .calculations
        .iter()
        .find(|each| each.name == "predictions")
    {
        let share = predictions.share_of_bytes();
        let speed_up = predictions.speed_up();
        lines.push((
            share < SHARE_OF_BYTES,
            format!(
                "predictions: {:.2} % of the old way's bytes (under 1 %)",
                share * 100.0
            ),
        ));
        lines.push((
            speed_up >= SPEED_UP,
            format!("predictions: {speed_up:.1} times faster (at least {SPEED_UP} times)"),
        ));
    }
    lines
}

/// A number of bytes for people, decimal.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(number: u64) -> String {
    let number = number as f64;
    if number < 1e6 {
        format!("{:.1} kB", number / 1e3)
    } else {
        format!("{:.2} MB", number / 1e6)
    }
}
