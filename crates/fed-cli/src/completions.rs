//! `fed completions`.

use clap::CommandFactory as _;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut command = crate::Arguments::command();
    clap_complete::generate(
        arguments.shell,
        &mut command,
        "fed",
        &mut std::io::stdout().lock(),
    );
    Ok(())
}
