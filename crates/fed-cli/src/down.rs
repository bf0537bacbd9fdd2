//! `fed down`: ends a federation.

use fed_core::FederationName;
use fed_service::operator::{self, Running};

use crate::checklist::Checklist;
use crate::console;
use crate::{Global, paths};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    /// Name of the federation
    #[arg(default_value = "fed")]
    name: FederationName,
}

pub(crate) fn run(global: &Global, arguments: Arguments) -> anyhow::Result<()> {
    console::log("warn");
    let state = paths::state(global)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if let Some(running) = Running::find(&state, &arguments.name).await? {
            let mut checklist = Checklist::new();
            return Ok(running.down(|progress| checklist.show(&progress)).await?);
        }
        console::note("its `fed up` has died; telling the sites");
        operator::clean_up(&state, &arguments.name).await?;
        console::note("nothing is left");
        Ok(())
    })
}
