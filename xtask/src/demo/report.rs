//! `report.json`: what the demonstration found.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::ground::Difference;
use super::{federation, old_way};

/// Most bytes that the old way may move, as a multiple of its files: beyond, it reads badly.
const MOST_BYTES: f64 = 1.1;
/// Least use of the link by the old way, 0 to 1: below, it reads badly.
const LEAST_USE: f64 = 0.7;

/// All that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// From the start of `fed up` until all workers were registered.
    pub(super) up_seconds: f64,
    /// Workers of all sites.
    pub(super) workers: u32,
    /// In the order in which they ran.
    pub(super) calculations: Vec<Calculation>,
    /// Processes, namespaces, devices and files, a line each.
    pub(super) leftovers: Vec<String>,
}

/// One calculation, both ways.
#[derive(Debug, Serialize)]
pub(super) struct Calculation {
    pub(super) name: &'static str,
    pub(super) federated: Federated,
    pub(super) remote_read: RemoteRead,
    /// Between the federation's result and plain xarray's, in K.
    pub(super) max_abs_error: f64,
    /// What rounding can explain of it, in K.
    pub(super) rounding: f64,
    pub(super) tasks_per_site: BTreeMap<String, u64>,
    pub(super) foreign_reads: u64,
    pub(super) cross_pool_steals: u64,
}

/// In the federation, from open to result.
#[derive(Debug, Serialize)]
pub(super) struct Federated {
    pub(super) seconds: f64,
    pub(super) wan_bytes: u64,
}

/// The old way, from open to result.
#[derive(Debug, Serialize)]
pub(super) struct RemoteRead {
    pub(super) seconds: f64,
    pub(super) wan_bytes: u64,
    /// Size of the files that it reads.
    pub(super) file_bytes: u64,
    /// Share of the time from the first byte to the last in which the busiest link was sending,
    /// 0 to 1.
    pub(super) link_use: f64,
    /// Whether it read well enough to be compared with.
    pub(super) counts: bool,
    pub(super) max_abs_error: f64,
}

impl Calculation {
    pub(super) fn new(
        name: &'static str,
        federated: federation::Outcome,
        remote_read: old_way::Outcome,
        difference: &Difference,
    ) -> Self {
        Self {
            name,
            federated: Federated {
                seconds: federated.seconds,
                wan_bytes: federated.traffic.bytes,
            },
            remote_read: RemoteRead::new(&remote_read, difference.remote_read),
            max_abs_error: difference.federated,
            rounding: difference.rounding,
            tasks_per_site: federated.tasks_per_site,
            foreign_reads: federated.foreign_reads,
            cross_pool_steals: federated.cross_pool_steals,
        }
    }

    /// Seconds of the old way for each of the federation's.
    pub(super) fn speed_up(&self) -> f64 {
        self.remote_read.seconds / self.federated.seconds
    }

    /// Bytes of the federation as a share of the old way's.
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub(super) fn share_of_bytes(&self) -> f64 {
        self.federated.wan_bytes as f64 / self.remote_read.wan_bytes as f64
    }
}

impl RemoteRead {
    #[expect(clippy::cast_precision_loss, reason = "a ratio far from its limit")]
    fn new(outcome: &old_way::Outcome, max_abs_error: f64) -> Self {
        let wan_bytes = outcome.traffic.bytes;
        let link_use = outcome.traffic.link_use();
        let is_lean = wan_bytes as f64 <= MOST_BYTES * outcome.file_bytes as f64;
        Self {
            seconds: outcome.seconds,
            wan_bytes,
            file_bytes: outcome.file_bytes,
            link_use,
            counts: is_lean && link_use >= LEAST_USE,
            max_abs_error,
        }
    }
}

impl Report {
    /// Writes it as JSON.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// What must not be, a sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for each in &self.calculations {
            let name = each.name;
            let mut wrong = |is_wrong: bool, problem: String| {
                if is_wrong {
                    problems.push(format!("{name}: {problem}"));
                }
            };
            let errors = [
                ("the federation's result", each.max_abs_error),
                ("the old way's result", each.remote_read.max_abs_error),
            ];
            for (what, error) in errors {
                // Also where it is no number.
                let is_equal = error <= each.rounding;
                let bound = each.rounding;
                let problem =
                    format!("{what} is {error:.2e} K off plain xarray's, not {bound:.2e} K");
                wrong(!is_equal, problem);
            }
            let reads = each.foreign_reads;
            wrong(reads != 0, format!("{reads} reads in a foreign pool"));
            let steals = each.cross_pool_steals;
            wrong(steals != 0, format!("{steals} tasks stolen across pools"));
        }
        let leftovers = self.leftovers.iter();
        problems.extend(leftovers.map(|leftover| format!("left over: {leftover}")));
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            up_seconds: 4.0,
            workers: 4,
            calculations: vec![Calculation {
                name: "predictions",
                federated: Federated {
                    seconds: 1.0,
                    wan_bytes: 1_000,
                },
                remote_read: RemoteRead {
                    seconds: 15.0,
                    wan_bytes: 200_000,
                    file_bytes: 190_000,
                    link_use: 0.9,
                    counts: true,
                    max_abs_error: 0.0,
                },
                max_abs_error: 1e-4,
                rounding: 1e-4,
                tasks_per_site: BTreeMap::from([("ecmwf".to_owned(), 3)]),
                foreign_reads: 0,
                cross_pool_steals: 0,
            }],
            leftovers: Vec::new(),
        }
    }

    #[test]
    fn what_is_right_is_no_problem() {
        assert_eq!(report().problems(), Vec::<String>::new());
    }

    #[test]
    fn whatever_is_wrong_is_a_problem() {
        type Change = fn(&mut Report);
        let changes: [(Change, &str); 6] = [
            (
                |report| report.calculations[0].max_abs_error = 2e-4,
                "2.00e-4 K off",
            ),
            (
                |report| report.calculations[0].max_abs_error = f64::NAN,
                "NaN K off",
            ),
            (
                |report| report.calculations[0].remote_read.max_abs_error = 1.0,
                "the old way's result",
            ),
            (
                |report| report.calculations[0].foreign_reads = 2,
                "2 reads in a foreign pool",
            ),
            (
                |report| report.calculations[0].cross_pool_steals = 1,
                "1 tasks stolen",
            ),
            (
                |report| report.leftovers.push("process 7 (fed)".to_owned()),
                "left over: process 7",
            ),
        ];
        for (change, expected) in changes {
            let mut report = report();
            change(&mut report);
            let problems = report.problems();
            assert!(
                problems.len() == 1 && problems[0].contains(expected),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn the_file_has_the_fields_that_are_promised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        report().write(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let calculation = &value["calculations"][0];
        assert_eq!(value["workers"], 4);
        assert_eq!(value["up_seconds"], 4.0);
        assert_eq!(value["leftovers"], serde_json::json!([]));
        assert_eq!(calculation["name"], "predictions");
        assert_eq!(calculation["federated"]["wan_bytes"], 1_000);
        assert_eq!(calculation["remote_read"]["seconds"], 15.0);
        assert_eq!(calculation["tasks_per_site"]["ecmwf"], 3);
        for field in ["max_abs_error", "foreign_reads", "cross_pool_steals"] {
            assert!(calculation[field].is_number(), "{field}");
        }
    }
}
