//! Labs for programs in other languages: `serve` runs one, `exec` runs a program in a host of it.

mod protocol;
mod serve;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use fed_testkit::{ExecError, HostUser};

/// Hosts in namespaces on this machine, joined by a WAN emulator.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Says whether this user can make labs here, and what to allow if not.
    Check,
    /// Runs the lab of a JSON file: one line with its hosts, then an answer to each line of input.
    /// Ends at the end of the input.
    Serve {
        /// The description of the lab.
        spec: PathBuf,
    },
    /// Runs a program in a host, passing signals on; ends as the program ends.
    Exec {
        /// The host's first process, as `serve` prints it.
        #[arg(long)]
        pid: u32,
        /// The user to run as, by number.
        #[arg(long, requires = "gid")]
        uid: Option<u32>,
        /// The group to run as, by number.
        #[arg(long, requires = "uid")]
        gid: Option<u32>,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = exit_code(&error);
            // Without a standard error there is nobody to tell.
            let _ = writeln!(io::stderr(), "fed-lab: {error:#}");
            code
        }
    }
}

fn run(action: Action) -> anyhow::Result<()> {
    match action {
        Action::Check => Ok(fed_testkit::check()?),
        Action::Serve { spec } => serve::serve(&spec),
        Action::Exec {
            pid,
            uid,
            gid,
            command,
        } => {
            let user = uid.zip(gid).map(|(uid, gid)| HostUser { uid, gid });
            let (program, arguments) = command
                .split_first()
                .expect("the command has at least one word");
            match fed_testkit::exec_in_host(pid, user, program, arguments)? {}
        }
    }
}

/// The shell's codes for a program that could not be run; 125 for everything of our own.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(ExecError::Program { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            ExitCode::from(127)
        }
        Some(ExecError::Program { .. }) => ExitCode::from(126),
        Some(ExecError::Host { .. }) | None => ExitCode::from(125),
    }
}
