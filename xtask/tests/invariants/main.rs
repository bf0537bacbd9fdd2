//! The invariants of docs/architecture.md, one test each.
//!
//! A rule is a function that gives the list of violations; each has tests of its own, on made-up
//! metadata or sources, which show that it can fail.

#![expect(clippy::unwrap_used, reason = "a test's failure is a panic")]

mod graph;
mod layers;
mod manifests;
mod sources;
mod tokens;

use std::path::{Path, PathBuf};
use std::process::Command;

use graph::Graph;

/// Fails with every violation, and what to do about them.
fn hold(violations: &[String], what_to_do: &str) {
    assert!(
        violations.is_empty(),
        "\n  {}\n{what_to_do}\n",
        violations.join("\n  ")
    );
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Metadata for this platform alone: another platform's crates need not be on the disk.
fn workspace() -> Graph {
    let version = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--filter-platform", host])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed:\n{errors}");
    Graph::parse(&serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn every_crate_has_a_layer() {
    hold(
        &layers::crates_without_layer(&workspace()),
        "Give the crate a row in LAYERS (xtask/tests/invariants/layers.rs) and in the crate table \
         of docs/architecture.md.",
    );
}

#[test]
fn the_crate_table_names_every_crate() {
    let text = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    hold(
        &layers::undocumented_crates(&workspace(), &text),
        "Add the crate to the table in docs/architecture.md.",
    );
}

#[test]
fn arrows_only_go_down() {
    hold(
        &layers::arrows_that_do_not_go_down(&workspace()),
        "A crate may depend on lower layers only. Move what both need into a lower crate, or let \
         the layer above hand it in.",
    );
}

#[test]
fn cores_do_not_know_one_another() {
    hold(
        &layers::cores_that_know_one_another(&workspace()),
        "Let the layer above translate between the two, also in tests.",
    );
}

#[test]
fn cores_know_no_io_crate() {
    hold(
        &layers::io_below_the_cores(&workspace()),
        "A sans-IO crate is handed packets, bytes and the time. Move the IO into a crate of \
         layer 2, or turn off the dependency's feature that brings it.",
    );
}

#[test]
fn cores_do_no_io_of_their_own() {
    hold(
        &sources::io_in_the_cores(&workspace()),
        "A sans-IO crate reads no clock, socket or file: take the value as an argument. (Code \
         under #[cfg(test)] may.)",
    );
}

#[test]
fn unsafe_code_stays_where_it_belongs() {
    hold(
        &sources::misplaced_unsafe(&workspace()),
        "`unsafe` belongs in layer 2 (fed-tun, fed-sandbox, …) and fed-testkit. Put a safe \
         function there and call it.",
    );
}

#[test]
fn every_crate_inherits_the_lints() {
    hold(
        &manifests::crates_without_lints(&workspace()),
        "Add to the crate's Cargo.toml:\n[lints]\nworkspace = true",
    );
}

#[test]
fn the_lint_table_is_whole() {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    hold(
        &manifests::weakened_lints(&text),
        "These lints stand in [workspace.lints] of Cargo.toml; silence one place with \
         #[expect(…, reason = \"…\")] instead.",
    );
}
