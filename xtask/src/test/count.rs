//! Counts tests in the logs of `cargo test` and pytest.

/// Numbers of individual tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
}

impl Counts {
    /// A step that is one check.
    pub(super) fn one_passed() -> Self {
        Self {
            passed: 1,
            ..Self::default()
        }
    }

    /// These, with at least one failure: that of the step itself.
    pub(super) fn with_failure(self) -> Self {
        Self {
            failed: self.failed.max(1),
            ..self
        }
    }
}

/// Adds up the `test result:` lines of all test programs in a log of `cargo test`.
pub(super) fn cargo_test(log: &str) -> Counts {
    let mut total = Counts::default();
    for line in log.lines() {
        let Some((_, numbers)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            continue;
        };
        add(&mut total, numbers.split(';'));
    }
    total
}

/// Reads the last summary line of a log of pytest: `== 1 failed, 12 passed in 0.31s ==`.
pub(super) fn pytest(log: &str) -> Counts {
    let mut counts = Counts::default();
    let summary = log.lines().rev().find_map(|line| {
        let (numbers, time) = line.trim_matches(['=', ' ']).rsplit_once(" in ")?;
        let is_time = time
            .split(' ')
            .next()?
            .strip_suffix('s')?
            .parse::<f64>()
            .is_ok();
        is_time.then_some(numbers)
    });
    add(&mut counts, summary.unwrap_or_default().split(','));
    counts
}

/// Adds words such as `12 passed` to their counts; words of other kinds count nothing.
fn add<'a>(counts: &mut Counts, words: impl Iterator<Item = &'a str>) {
    for word in words {
        let Some((number, kind)) = word.trim().split_once(' ') else {
            continue;
        };
        let Ok(number) = number.parse::<u64>() else {
            continue;
        };
        match kind {
            "passed" => counts.passed += number,
            "failed" | "error" | "errors" => counts.failed += number,
            "skipped" | "ignored" => counts.skipped += number,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_of_cargo_test_are_added_up() {
        let log = "running 2 tests\n\
                   test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                   test result: FAILED. 5 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(
            cargo_test(log),
            Counts {
                passed: 7,
                failed: 3,
                skipped: 1
            }
        );
    }

    #[test]
    fn the_last_summary_of_pytest_counts() {
        let log = "=== 99 passed in 1.00s ===\nsomething\n\
                   ====== 2 failed, 12 passed, 3 skipped, 1 error in 63.31s (0:01:03) ======\n";
        assert_eq!(
            pytest(log),
            Counts {
                passed: 12,
                failed: 3,
                skipped: 3
            }
        );
        assert_eq!(
            pytest("1 passed in 0.12s\n"),
            Counts {
                passed: 1,
                failed: 0,
                skipped: 0
            }
        );
    }

    #[test]
    fn prose_is_no_summary() {
        assert_eq!(
            pytest("3 passed in a row\nno tests ran\n"),
            Counts::default()
        );
        assert_eq!(
            cargo_test("my test result: ok. 3 passed; "),
            Counts::default()
        );
    }
}
