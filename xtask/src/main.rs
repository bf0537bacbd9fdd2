//! Project tasks: `cargo xtask bench`, `chaos`, `demo`, `test` and `proto`.
//!
//! One module per subcommand; the modules beside them (environment, packages, process, …) are what
//! the subcommands share. Nothing here is installed with fed, and no other crate may depend on it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod chaos;
mod console;
mod demo;
mod environment;
mod packages;
mod process;
mod proto;
mod test;
mod tools;

/// The command line of `cargo xtask`.
#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project tasks of fed")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure what the project promises, and print and save what was found
    Bench(bench::Arguments),
    /// Take parts from federations, and write docs/reliability.md from what their users saw
    Chaos,
    /// Run the main job on this machine: two sites, real data, the old way beside the new
    Demo(demo::Arguments),
    /// Run every test and check there is, with a summary at the end
    Test(test::Arguments),
    /// Generate the Rust code of the agent protocol from its protobuf file
    Proto(proto::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let root = repository_root();
    let result = match arguments.task {
        Task::Bench(arguments) => bench::run(&root, &arguments),
        Task::Chaos => chaos::run(&root),
        Task::Demo(arguments) => demo::run(&root, &arguments),
        Task::Test(arguments) => test::run(&root, &arguments),
        Task::Proto(arguments) => proto::run(&root, &arguments).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        console::progress(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

/// The checkout that `cargo xtask` was called in, wherever it has been moved since the build.
fn repository_root() -> PathBuf {
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest_dir
        .parent()
        .expect("xtask's manifest lies in a folder of the repository")
        .to_path_buf()
}
