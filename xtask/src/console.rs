//! What the tasks print: progress on stderr, results on stdout.
//!
//! A closed pipe is no reason to stop a test run half way, so failed writes are dropped.

use std::io::Write;

/// Writes one line of progress to stderr.
pub(crate) fn progress(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}

/// Writes one line of the result to stdout.
pub(crate) fn result(line: &str) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}
