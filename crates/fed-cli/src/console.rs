//! Standard output for data, standard error for everything else.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Prints a line of data.
pub(crate) fn data(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("cannot write to standard output")
}

/// Prints a value as one line of JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    data(&serde_json::to_string(value).context("cannot write as JSON")?)
}

/// How many there are of something, whose plural ends in `s`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// Shows a line to whoever watches. Nobody need.
pub(crate) fn note(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Shows an error with its causes, each once.
pub(crate) fn error(error: &anyhow::Error) {
    note(&format!("error: {}", sentence(error)));
}

/// An error and its causes, each told once.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// True if progress can be redrawn in place.
pub(crate) fn is_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// Sends the log to standard error; `FED_LOG` chooses what of it.
pub(crate) fn log(default: &str) {
    let filter = EnvFilter::try_from_env("FED_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .init();
}
