//! The corpus of the fuzz targets, replayed on any compiler, and small changes of it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// What a target does with an input.
type Run = fn(&[u8]);

/// The targets, as in `fuzz/fuzz_targets`.
const TARGETS: [(&str, Run); 8] = [
    ("datagrams", |input| {
        fed_mesh::fuzzing::datagrams(input, Instant::now())
    }),
    ("packets", |input| {
        fed_mesh::fuzzing::packets(input, Instant::now())
    }),
    ("frames", |input| {
        fed_mesh::fuzzing::frames(input, Instant::now());
    }),
    ("packets_of_peers", fed_tun::fuzzing::packets_of_peers),
    (
        "pieces_of_the_kernel",
        fed_tun::fuzzing::pieces_of_the_kernel,
    ),
    ("control_messages", fed_service::fuzzing::control_messages),
    ("node_requests", fed_service::fuzzing::node_requests),
    ("invitations", fed_rpc::fuzzing::invitations),
];

/// Changed inputs for each target.
const CASES: u32 = 512;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn names(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The inputs of a target, of which there are some.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = names(&fuzz().join("corpus").join(target));
    assert!(!paths.is_empty(), "{target} has no corpus");
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_target_is_replayed() {
    let stems = |folder: &str| -> BTreeSet<_> {
        let paths = names(&fuzz().join(folder));
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        paths.into_iter().map(stem).collect()
    };
    let replayed: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(stems("fuzz_targets"), replayed);
    assert_eq!(stems("corpus"), replayed);
}

#[test]
fn the_corpus_finds_nothing() {
    for (target, run) in TARGETS {
        for (path, input) in corpus(target) {
            let passed = std::panic::catch_unwind(|| run(&input));
            assert!(passed.is_ok(), "{target} on {}", path.display());
        }
    }
}

#[test]
fn small_changes_of_the_corpus_find_nothing() {
    for (target, run) in TARGETS {
        let corpus = corpus(target);
        let inputs = (
            any::<Index>(),
            prop::collection::vec((any::<Index>(), any::<u8>()), 0..8),
            any::<Index>(),
        );
        let changed = inputs.prop_map(|(chosen, changes, end)| {
            let mut input = chosen.get(&corpus).1.clone();
            for (at, byte) in changes {
                if !input.is_empty() {
                    let at = at.index(input.len());
                    input[at] = byte;
                }
            }
            // The most are left as long as they were.
            let length = end.index(4 * (input.len() + 1)).min(input.len());
            input.truncate(length);
            input
        });
        let mut runner = TestRunner::new(Config {
            cases: CASES,
            failure_persistence: None,
            ..Config::default()
        });
        let result = runner.run(&changed, |input| {
            run(&input);
            Ok(())
        });
        result.unwrap_or_else(|error| panic!("{target}: {error}"));
    }
}
