//! `fed completions`.

use clap::{Command, CommandFactory as _};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut command = visible(&crate::Arguments::command());
    clap_complete::generate(
        arguments.shell,
        &mut command,
        "fed",
        &mut std::io::stdout().lock(),
    );
    Ok(())
}

/// The command as its help shows it: clap offers hidden commands and flags otherwise.
fn visible(command: &Command) -> Command {
    let subcommands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    let arguments = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set());
    let shown = Command::new(command.get_name().to_owned())
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .args(arguments)
        .subcommands(subcommands.map(visible));
    match command.get_about() {
        Some(about) => shown.about(about.clone()),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn what_is_hidden_is_not_offered() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            let mut command = visible(&crate::Arguments::command());
            clap_complete::generate(*shell, &mut command, "fed", &mut script);
            let script = String::from_utf8(script).unwrap();
            for hidden in ["supervised", "node"] {
                assert!(!script.contains(hidden), "{shell}: {hidden}");
            }
            for shown in ["operators", "rotate", "detach", "state"] {
                assert!(script.contains(shown), "{shell}: {shown}");
            }
        }
    }
}
