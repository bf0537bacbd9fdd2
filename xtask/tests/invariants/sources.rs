//! The rules about Rust sources: where `unsafe` may stand, and what the cores may not call.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::graph::Graph;
use crate::layers::{Layer, layer};
use crate::tokens::{Token, balanced, starts_with, tokens, without_tests};

/// Sequences that read a clock, wait, or touch files.
const IO_SEQUENCES: &[&[&str]] = &[
    &["Instant", "::", "now"],
    &["SystemTime", "::", "now"],
    &[".", "elapsed", "("],
    &["thread", "::", "sleep"],
    &["std", "::", "fs"],
];

/// Types that are sockets.
const SOCKETS: &[&str] = &[
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
];

pub(crate) fn misplaced_unsafe(graph: &Graph) -> Vec<String> {
    let is_allowed = |name: &str| layer(name) == Some(Layer::Number(2)) || name == "fed-testkit";
    let mut found = Vec::new();
    for (id, _) in graph.members().filter(|(_, name)| !is_allowed(name)) {
        for file in rust_files(&crate_folder(graph, id)) {
            found.extend(located(&file, &unsafe_tokens(&tokens(&read(&file)))));
        }
    }
    found
}

pub(crate) fn io_in_the_cores(graph: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    let cores = graph
        .members()
        .filter(|(_, name)| layer(name) == Some(Layer::Number(1)));
    for (id, _) in cores {
        found.extend(io_in_folder(&crate_folder(graph, id).join("src")));
    }
    found
}

/// IO in the files of a source folder, apart from the modules that only tests have.
fn io_in_folder(folder: &Path) -> Vec<String> {
    let mut test_files = BTreeSet::new();
    let mut products = Vec::new();
    for file in rust_files(folder) {
        let (product, test_modules) = without_tests(&tokens(&read(&file)));
        for module in test_modules {
            let base = module_folder(&file).join(module);
            test_files.insert(base.with_extension("rs"));
            test_files.insert(base);
        }
        products.push((file, product));
    }
    let is_test = |file: &Path| file.ancestors().any(|path| test_files.contains(path));
    products
        .iter()
        .filter(|(file, _)| !is_test(file))
        .flat_map(|(file, product)| located(file, &io_tokens(product)))
        .collect()
}

/// Where the submodules of a file lie.
fn module_folder(file: &Path) -> PathBuf {
    let folder = file.parent().expect("a file lies in a folder");
    match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "main" | "mod") | None => folder.to_path_buf(),
        Some(stem) => folder.join(stem),
    }
}

fn unsafe_tokens(tokens: &[Token]) -> Vec<(usize, String)> {
    let lifted = |at: usize| {
        ["allow", "expect", "warn"]
            .iter()
            .any(|level| starts_with(&tokens[at..], &[level, "(", "unsafe_code"]))
    };
    (0..tokens.len())
        .filter(|at| tokens[*at].text == "unsafe" || lifted(*at))
        .map(|at| (tokens[at].line, "unsafe code".to_owned()))
        .collect()
}

fn io_tokens(tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let line = tokens[at].line;
        if SOCKETS.contains(&tokens[at].text.as_str()) {
            found.push((line, tokens[at].text.clone()));
        }
        for sequence in IO_SEQUENCES {
            if starts_with(&tokens[at..], sequence) {
                found.push((line, sequence.concat()));
            }
        }
        if starts_with(&tokens[at..], &["std", "::", "{"]) && names_fs(&tokens[at + 2..]) {
            found.push((line, "std::fs".to_owned()));
        }
    }
    found
}

/// Whether a braced list of imports from `std` names `fs` itself, not as a part of a deeper path.
fn names_fs(list: &[Token]) -> bool {
    let list = &list[..balanced(list)];
    let mut depth = 0_usize;
    list.windows(2).any(|pair| {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        depth == 1 && matches!(pair[0].text.as_str(), "{" | ",") && pair[1].text == "fs"
    })
}

fn located(file: &Path, found: &[(usize, String)]) -> Vec<String> {
    found
        .iter()
        .map(|(line, what)| format!("{}:{line}: {what}", file.display()))
        .collect()
}

fn crate_folder(graph: &Graph, id: &str) -> PathBuf {
    graph
        .manifest(id)
        .parent()
        .expect("a manifest lies in a folder")
        .to_path_buf()
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The `.rs` files below a folder, in order.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut queue = vec![folder.to_path_buf()];
    while let Some(folder) = queue.pop() {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                queue.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn io(source: &str) -> Vec<String> {
        let (product, _) = without_tests(&tokens(source));
        io_tokens(&product)
            .into_iter()
            .map(|(_, what)| what)
            .collect()
    }

    #[test]
    fn clocks_sockets_and_files_are_found() {
        assert_eq!(io("let now = std::time::Instant::now();"), ["Instant::now"]);
        assert_eq!(io("SystemTime :: now()"), ["SystemTime::now"]);
        assert_eq!(io("start.elapsed()"), [".elapsed("]);
        assert_eq!(io("use std::net::{IpAddr, UdpSocket};"), ["UdpSocket"]);
        assert_eq!(io("std::fs::read(path)"), ["std::fs"]);
        assert_eq!(io("use std::{collections::BTreeMap, fs};"), ["std::fs"]);
        assert_eq!(io("use std::{fs::File, io};"), ["std::fs"]);
    }

    #[test]
    fn prose_tests_and_namesakes_are_not() {
        assert_eq!(io("// Instant::now()\nlet s = \"std::fs\";"), [""; 0]);
        assert_eq!(
            io("#[cfg(test)] mod tests { use std::fs; fn a() { Instant::now(); } }"),
            [""; 0]
        );
        assert_eq!(
            io("use std::{collections::{BTreeMap, BTreeSet}, io}; let fs = 1;"),
            [""; 0]
        );
        assert_eq!(io("fn handle(now: Instant, elapsed: Duration) {}"), [""; 0]);
    }

    #[test]
    fn files_of_test_modules_are_left_out_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("lib.rs", "mod peer;\n#[cfg(test)]\nmod tests;\n");
        write("tests.rs", "fn a() { Instant::now(); }");
        write("tests/deep.rs", "fn a() { Instant::now(); }");
        write("peer.rs", "#[cfg(test)] mod cases; mod timer;");
        write("peer/cases.rs", "fn a() { Instant::now(); }");
        write("peer/timer.rs", "fn a() {\n Instant::now(); }");
        let found = io_in_folder(folder.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].ends_with("peer/timer.rs:2: Instant::now"),
            "{found:?}"
        );
    }

    #[test]
    fn unsafe_blocks_and_lifted_lints_are_found() {
        let lines = |source: &str| -> Vec<usize> {
            unsafe_tokens(&tokens(source))
                .into_iter()
                .map(|(line, _)| line)
                .collect()
        };
        assert_eq!(
            lines("fn a() {\n unsafe { b() } }\nunsafe impl Send for C {}"),
            [2, 3]
        );
        assert_eq!(
            lines("#[expect(unsafe_code, reason = \"x\")]\nfn a() {}"),
            [1]
        );
        assert_eq!(
            lines("#![forbid(unsafe_code)]\n// unsafe\nconst A: &str = \"unsafe\";"),
            [0; 0]
        );
    }
}
