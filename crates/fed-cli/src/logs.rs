//! `fed logs`: what the processes of a federation wrote.

use fed_core::FederationName;
use fed_service::operator::Running;

use crate::console::{self, Output};
use crate::{Global, paths};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Name of the federation
    #[arg(default_value = "fed")]
    name: FederationName,
    /// Lines of each log; 0 shows all
    #[arg(long, value_name = "LINES", default_value_t = 20)]
    tail: u32,
    /// Only logs whose name (`site/process`) contains this
    #[arg(
        long,
        value_name = "PART",
        default_value = "",
        hide_default_value = true
    )]
    only: String,
    /// How the lines are printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    console::log("warn");
    let state = paths::state(global)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut logs = runtime.block_on(async {
        match Running::find(&state, &arguments.name).await? {
            Some(mut running) => Ok(running.logs(arguments.tail).await?),
            None => anyhow::bail!(
                "the `fed up` of {0} has died; `fed down {0}` ends what is left",
                arguments.name
            ),
        }
    })?;
    logs.retain(|name, _| name.contains(&arguments.only));
    if arguments.output == Output::Json {
        return console::json(&logs);
    }
    for (name, lines) in logs {
        for line in lines {
            console::data(&format!("{name}: {line}"))?;
        }
    }
    Ok(())
}
