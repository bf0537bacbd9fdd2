//! What was found: medians, ratios, the table and the verdict.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::implementation::{BORINGTUN, FED, GOTATUN};
use super::measure::{Measured, Test};
use super::memory::PEERS;
use crate::console;

/// What stands beside the mesh in the test [`Test::Dask`].
pub(super) const PLAIN: &str = "plain TCP";

/// All runs of all tests.
#[derive(Default)]
pub(super) struct Report {
    runs: BTreeMap<String, BTreeMap<Test, Vec<Measured>>>,
    memory: Option<f64>,
}

/// A ratio of paired runs.
struct Ratio {
    name: &'static str,
    of: (&'static str, Test),
    to: (&'static str, Test),
    goal: Goal,
}

/// What the project promises.
#[derive(Clone, Copy)]
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("at least {least}"),
            Self::AtMost(most) => format!("at most {most}"),
        }
    }
}

const RATIOS: [Ratio; 8] = [
    ratio(
        "tcp1_vs_boringtun",
        Test::Tcp1,
        BORINGTUN,
        Goal::AtLeast(5.7),
    ),
    ratio(
        "tcp4_vs_boringtun",
        Test::Tcp4,
        BORINGTUN,
        Goal::AtLeast(5.7),
    ),
    ratio("tcp1_vs_gotatun", Test::Tcp1, GOTATUN, Goal::AtLeast(5.7)),
    ratio(
        "udp64_vs_boringtun",
        Test::Udp64,
        BORINGTUN,
        Goal::AtLeast(2.1),
    ),
    ratio("rtt_vs_boringtun", Test::Rtt, BORINGTUN, Goal::AtMost(1.2)),
    ratio(
        "jumbo_vs_boringtun",
        Test::Jumbo,
        BORINGTUN,
        Goal::AtLeast(2.2),
    ),
    Ratio {
        name: "no_offload_vs_offload",
        of: (FED, Test::NoOffload),
        to: (FED, Test::Tcp1),
        goal: Goal::AtLeast(0.9),
    },
    ratio("dask_vs_tcp", Test::Dask, PLAIN, Goal::AtLeast(0.9)),
];

/// CPU seconds for 10^9 bytes through one TCP connection, both ends.
const CPU: Goal = Goal::AtMost(1.7);
/// The longest round trip, in ms.
const RTT_MAX: Goal = Goal::AtMost(1.0);
/// Memory of a node with many peers, in units of 10^6 bytes.
const MEMORY: Goal = Goal::AtMost(60.0);

const fn ratio(name: &'static str, test: Test, other: &'static str, goal: Goal) -> Ratio {
    Ratio {
        name,
        of: (FED, test),
        to: (other, test),
        goal,
    }
}

impl Report {
    /// Adds a run; the runs of one test come in the same order for all implementations.
    pub(super) fn add(&mut self, name: &str, test: Test, measured: Measured) {
        let tests = self.runs.entry(name.to_owned()).or_default();
        tests.entry(test).or_default().push(measured);
    }

    /// Notes the memory of a node of ours, in units of 10^6 bytes.
    pub(super) fn memory(&mut self, megabytes: f64) {
        self.memory = Some(megabytes);
    }

    fn runs(&self, (name, test): (&str, Test)) -> &[Measured] {
        let runs = self.runs.get(name).and_then(|tests| tests.get(&test));
        runs.map_or(&[], Vec::as_slice)
    }

    fn ratio(&self, ratio: &Ratio) -> Option<f64> {
        let pairs = self.runs(ratio.of).iter().zip(self.runs(ratio.to));
        median(pairs.map(|(of, to)| of.value / to.value))
    }

    fn cpu(&self) -> Option<f64> {
        cpu(self.runs((FED, Test::Tcp1)))
    }

    fn rtt_max(&self) -> Option<f64> {
        let runs = self.runs((FED, Test::Rtt)).iter();
        runs.filter_map(|run| run.max).reduce(f64::max)
    }

    /// What is saved.
    pub(super) fn to_json(&self) -> Value {
        let mut implementations = json!({});
        for (name, tests) in &self.runs {
            for (test, runs) in tests {
                implementations[name][test.name()] = json!({
                    "median": median(runs.iter().map(|run| run.value)),
                    "runs": runs.iter().map(|run| run.value).collect::<Vec<_>>(),
                    "cpu_s_per_gb": cpu(runs),
                });
                let maxima: Vec<_> = runs.iter().filter_map(|run| run.max).collect();
                if !maxima.is_empty() {
                    implementations[name][format!("{}_max", test.name())] = json!({
                        "median": median(maxima.iter().copied()),
                        "runs": maxima,
                        "cpu_s_per_gb": null,
                    });
                }
            }
        }
        if let Some(memory) = self.memory {
            implementations[FED][format!("memory_{PEERS}_peers_mb")] =
                json!({ "median": memory, "runs": [memory], "cpu_s_per_gb": null });
        }
        let ratios: BTreeMap<_, _> = RATIOS
            .iter()
            .map(|ratio| (ratio.name, self.ratio(ratio)))
            .collect();
        json!({
            "implementations": implementations,
            "ratios": ratios,
            "cpu_s_per_gb": self.cpu(),
        })
    }

    /// Prints the table and what was promised; the exit code is 1 where a promise is broken.
    pub(super) fn print(&self) -> ExitCode {
        console::result(&format!(
            "{:<16}{:<12}{:>12}  {:<16}{:>12}",
            "implementation", "test", "median", "unit", "CPU s/GB"
        ));
        for (name, tests) in &self.runs {
            for (test, runs) in tests {
                let value = median(runs.iter().map(|run| run.value));
                let cpu = cpu(runs).map_or_else(String::new, |cpu| format!("{cpu:.2}"));
                console::result(&format!(
                    "{name:<16}{:<12}{:>12.3}  {:<16}{cpu:>12}",
                    test.name(),
                    value.unwrap_or(f64::NAN),
                    test.unit(),
                ));
                let longest = runs.iter().filter_map(|run| run.max).reduce(f64::max);
                if let Some(longest) = longest {
                    console::result(&format!(
                        "{name:<16}{:<12}{longest:>12.3}  {}",
                        format!("{}_max", test.name()),
                        test.unit(),
                    ));
                }
            }
        }
        console::result("");
        let ratios = RATIOS
            .iter()
            .map(|ratio| (ratio.name, self.ratio(ratio), ratio.goal));
        let others = [
            ("cpu_s_per_gb", self.cpu(), CPU),
            ("rtt_max_ms", self.rtt_max(), RTT_MAX),
            ("memory_mb", self.memory, MEMORY),
        ];
        let mut missed = false;
        for (name, value, goal) in ratios.chain(others) {
            let Some(value) = value else { continue };
            missed |= !goal.is_met(value);
            let verdict = if goal.is_met(value) {
                "met   "
            } else {
                "MISSED"
            };
            console::result(&format!(
                "{verdict}  {name:<24}{value:>8.2}  {}",
                goal.text()
            ));
        }
        console::result("");
        console::result("target/bench/mesh.json");
        ExitCode::from(u8::from(missed))
    }
}

fn cpu(runs: &[Measured]) -> Option<f64> {
    median(runs.iter().filter_map(|run| run.cpu_s_per_gb))
}

/// The middle value, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(value: f64) -> Measured {
        Measured {
            value,
            max: None,
            cpu_s_per_gb: Some(value),
        }
    }

    #[test]
    fn ratios_are_medians_of_pairs() {
        let mut report = Report::default();
        for (ours, theirs) in [(6.0, 1.0), (8.0, 2.0), (5.0, 1.0)] {
            report.add(FED, Test::Tcp1, run(ours));
            report.add(BORINGTUN, Test::Tcp1, run(theirs));
        }
        let json = report.to_json();
        assert_eq!(json["ratios"]["tcp1_vs_boringtun"], 5.0);
        assert_eq!(json["ratios"]["tcp4_vs_boringtun"], Value::Null);
        assert_eq!(json["implementations"][FED]["tcp1"]["median"], 6.0);
        assert_eq!(json["cpu_s_per_gb"], 6.0);
        assert_eq!(report.print(), ExitCode::from(1));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
    }
}
