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
mod time;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// One Dask cluster over several data centres, in which every chunk stays where it lies.
#[derive(Parser)]
#[command(name = "fed", version, propagate_version = true, after_help = exit::HELP)]
struct Arguments {
    /// As an operator's commands have it: it may stand before them too
    #[arg(long, value_name = "FOLDER", hide = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// What the commands of an operator share.
#[derive(clap::Args)]
struct Global {
    /// Folder of the operator's keys, sites and federations [default: ~/.local/state/fed]
    #[arg(long, global = true, env = "FED_STATE_DIR", value_name = "FOLDER")]
    state: Option<PathBuf>,
}

impl Global {
    /// With the folder that stands before the command, which counts more than the environment's.
    fn after(&self, before: Option<PathBuf>) -> Self {
        Self {
            state: before.or_else(|| self.state.clone()),
        }
    }
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
    Site(site::Arguments),
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
    let Arguments { state, command } = Arguments::parse();
    let is_operators = !matches!(
        command,
        Command::Agent(_) | Command::Completions(_) | Command::Node(_)
    );
    if state.is_some() && !is_operators {
        let message = "--state is the folder of an operator, which this command does not use; an \
                       agent's stands in its agent.toml (`state`)";
        let kind = clap::error::ErrorKind::ArgumentConflict;
        Arguments::command().error(kind, message).exit();
    }
    let result = match command {
        Command::Up(arguments) => up::run(&arguments.global.after(state), arguments),
        Command::Down(arguments) => down::run(&arguments.global.after(state), arguments),
        Command::Status(arguments) => status::run(&arguments.global.after(state), &arguments),
        Command::Logs(arguments) => logs::run(&arguments.global.after(state), &arguments),
        Command::Site(arguments) => site::run(&arguments.global.after(state), arguments.command),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every command that does something itself, by its whole name.
    fn leaves(command: &clap::Command, name: &str) -> Vec<(String, clap::Command)> {
        let below = command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help");
        let below = below.flat_map(|sub| leaves(sub, &format!("{name} {}", sub.get_name())));
        let below: Vec<_> = below.collect();
        match below.is_empty() {
            true => vec![(name.to_owned(), command.clone())],
            false => below,
        }
    }

    #[test]
    fn the_operators_folder_is_shown_where_it_counts() {
        let mut command = Arguments::command();
        command.build();
        let mut with = Vec::new();
        for (name, mut command) in leaves(&command, "fed") {
            if command.render_long_help().to_string().contains("--state") {
                with.push(name);
            }
        }
        assert_eq!(
            with.join(", "),
            "fed up, fed down, fed status, fed logs, fed site add, fed site list, fed site remove, \
             fed site rotate"
        );
    }

    #[test]
    fn the_operators_folder_may_stand_before_the_command_or_after() {
        for line in [
            "fed --state /a site list",
            "fed site --state /a list",
            "fed site list --state /a",
        ] {
            let parsed = Arguments::try_parse_from(line.split(' ')).unwrap();
            let Command::Site(site) = parsed.command else {
                panic!("{line}");
            };
            assert_eq!(
                site.global.after(parsed.state).state,
                Some(PathBuf::from("/a")),
                "{line}"
            );
        }
        for line in [
            "fed agent run --state /a",
            "fed completions bash --state /a",
        ] {
            assert!(
                Arguments::try_parse_from(line.split(' ')).is_err(),
                "{line}"
            );
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
