//! The `fed` command: reads the command line, calls the library, shows the result.
//!
//! Data goes to standard output, progress and errors to standard error. Exit codes are in
//! [`exit`].

mod agent;
mod checklist;
mod completions;
mod console;
mod down;
mod exit;
mod logs;
mod node;
mod paths;
mod site;
mod status;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// One Dask cluster over several data centres, in which every chunk stays where it lies.
#[derive(Parser)]
#[command(version, propagate_version = true, after_help = exit::HELP)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Args)]
struct Global {
    /// Folder of the operator's keys, sites and federations [default: ~/.local/state/fed]
    #[arg(long, global = true, env = "FED_STATE_DIR", value_name = "FOLDER")]
    state: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Bring a federation up over one or more sites
    Up(up::Arguments),
    /// End a federation; nothing of it is left at any site
    Down(down::Arguments),
    /// Show how federations stand
    Status(status::Arguments),
    /// Show the last lines of a federation's logs, from every site
    Logs(logs::Arguments),
    /// Add, list and remove sites
    #[command(subcommand)]
    Site(site::Command),
    /// Run the agent of a data centre, and invite operators to it
    #[command(subcommand)]
    Agent(agent::Command),
    /// Print a shell's completions
    Completions(completions::Arguments),
    /// Run one member's end of a federation (started by an agent or by `fed up`)
    #[command(hide = true)]
    Node(node::Arguments),
}

fn main() -> ExitCode {
    let Arguments { global, command } = Arguments::parse();
    let result = match command {
        Command::Up(arguments) => up::run(&global, arguments),
        Command::Down(arguments) => down::run(&global, arguments),
        Command::Status(arguments) => status::run(&global, &arguments),
        Command::Logs(arguments) => logs::run(&global, &arguments),
        Command::Site(command) => site::run(&global, command),
        Command::Agent(command) => agent::run(command),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Node(arguments) => node::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::error(&error);
            exit::code(&error)
        }
    }
}
