//! `fed logs`: what the processes of a federation wrote.

use std::collections::BTreeMap;

use fed_core::FederationName;
use fed_service::operator::Running;

use crate::console::{self, Output};
use crate::{Global, paths};

/// Lines, by `site/process`.
type Logs = BTreeMap<String, Vec<String>>;

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

/// No log is called so, or it has no lines yet: sites tell of logs line by line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no log with lines has {part:?} in its name (--only); there are {}", .names.join(", "))]
pub(crate) struct NoSuchLog {
    part: String,
    names: Vec<String>,
}

/// Keeps the logs whose names contain `part`.
fn select(logs: Logs, part: &str) -> Result<Logs, NoSuchLog> {
    if logs.keys().any(|name| name.contains(part)) {
        let kept = logs.into_iter().filter(|(name, _)| name.contains(part));
        return Ok(kept.collect());
    }
    Err(NoSuchLog {
        part: part.to_owned(),
        names: logs.into_keys().collect(),
    })
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> anyhow::Result<()> {
    console::log("warn");
    let state = paths::state(global)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let logs = runtime.block_on(async {
        match Running::find(&state, &arguments.name).await? {
            Some(mut running) => Ok(running.logs(arguments.tail).await?),
            None => anyhow::bail!(
                "the `fed up` of {0} has died; `fed down {0}` ends what is left",
                arguments.name
            ),
        }
    })?;
    let logs = select(logs, &arguments.only)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_no_log_has_is_told_with_the_names() {
        let names = ["ecmwf/ecmwf-1-0", "ecmwf/node", "operator/scheduler"];
        let logs: Logs = names
            .map(|name| (name.to_owned(), vec!["a line".to_owned()]))
            .into();
        assert_eq!(select(logs.clone(), "").unwrap(), logs);
        let one = select(logs.clone(), "ecmwf-1-0").unwrap();
        assert_eq!(one.into_keys().collect::<Vec<_>>(), names[..1]);
        let error = select(logs, "ecmfw").unwrap_err().to_string();
        assert!(error.contains("\"ecmfw\" in its name (--only)"), "{error}");
        assert!(error.ends_with(&names.join(", ")), "{error}");
    }
}
