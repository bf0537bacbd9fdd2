//! Real hosts: real packets, mounts, signals and processes.
//!
//! Without the usual test harness, whose threads forbid entering a user namespace. As there, words
//! on the command line select tests by a part of their name.
#![expect(clippy::unwrap_used, reason = "tests")]

mod programs;
mod roles;
mod server;
mod wan;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long anything may take that is waited for: far more than it needs on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    (
        "tcp_between_hosts_is_counted_on_its_pair_alone",
        wan::tcp_is_counted,
    ),
    (
        "a_connection_takes_at_least_the_round_trip",
        wan::round_trip,
    ),
    (
        "a_cut_stops_all_of_a_pair_or_one_protocol_until_it_is_mended",
        wan::cuts,
    ),
    ("hosts_have_names_and_know_one_another", programs::names),
    ("a_bind_is_visible_in_one_host_alone", programs::binds),
    (
        "private_directories_are_private_and_empty",
        programs::private,
    ),
    (
        "impossible_labs_are_refused_with_the_reason",
        programs::refusals,
    ),
    ("exit_codes_and_signals_come_through", programs::status),
    ("killing_the_child_ends_the_program", programs::killed),
    ("a_program_runs_as_another_user", programs::other_user),
    ("orphans_are_reaped_and_end_with_the_lab", programs::orphans),
    ("leftovers_are_shown_and_then_gone", programs::leftovers),
    (
        "serve_answers_and_ends_with_its_input",
        server::conversation,
    ),
    (
        "serve_killed_leaves_no_process_and_no_namespace",
        server::killed,
    ),
    ("exec_passes_signals_and_status_on", server::exec),
    ("an_ordinary_user_makes_a_lab", server::ordinary_user),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("--role", role)) = arguments.split_first().map(|(a, b)| (a.as_str(), b)) {
        roles::play(role);
        return ExitCode::SUCCESS;
    }
    if let Err(error) = fed_testkit::enter() {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        say(&format!(
            "cannot test hosts: {error}: {}",
            source.unwrap_or_default()
        ));
        return ExitCode::FAILURE;
    }
    let words: Vec<_> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(*word));
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        let passed = std::panic::catch_unwind(test).is_ok();
        failed += i32::from(!passed);
        say(&format!(
            "test {name} ... {}",
            if passed { "ok" } else { "FAILED" }
        ));
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the caller reads our output");
}
