//! `fed agent`: the daemon of a data centre.

use std::fmt::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use fed_core::SiteName;
use fed_service::agent::{self, AgentConfig, Roster};

use crate::console;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Prepare this host: write agent.toml where there is none, make the agent's key, check the host
    Init(Init),
    /// Print an invitation that lets one operator in, once
    Invite(Invite),
    /// Run the agent
    Run(Config),
    /// List the operators who are enrolled
    Operators(Config),
}

#[derive(clap::Args)]
pub(crate) struct Config {
    /// The agent's configuration
    #[arg(
        long,
        env = "FED_AGENT_CONFIG",
        default_value = "/etc/fed/agent.toml",
        value_name = "FILE"
    )]
    config: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct Init {
    #[command(flatten)]
    config: Config,
    /// Name of the site, for a new agent.toml
    #[arg(long)]
    name: Option<SiteName>,
    /// host:port at which operators reach the agent, for a new agent.toml
    #[arg(long)]
    address: Option<String>,
    /// Interpreter of the workers, for a new agent.toml
    #[arg(long)]
    python: Option<String>,
    /// Folder or URL prefix of the site's data, for a new agent.toml; may be repeated
    #[arg(long, value_name = "ROOT")]
    data: Vec<String>,
}

#[derive(clap::Args)]
pub(crate) struct Invite {
    #[command(flatten)]
    config: Config,
    /// How long the invitation is valid
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    expires: Duration,
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init(arguments) => init(&arguments),
        Command::Invite(arguments) => {
            let config = AgentConfig::load(&arguments.config.config)?;
            agent::drop_privileges(&config)?;
            console::data(&agent::invite(&config, arguments.expires)?)
        }
        Command::Run(arguments) => serve(&arguments.config),
        Command::Operators(arguments) => {
            let config = AgentConfig::load(&arguments.config)?;
            agent::drop_privileges(&config)?;
            for operator in Roster::open(&config.state)?.operators()? {
                console::data(&format!("{}  {}", operator.fingerprint, operator.name))?;
            }
            Ok(())
        }
    }
}

fn init(arguments: &Init) -> anyhow::Result<()> {
    let path = &arguments.config.config;
    if !path.exists() {
        write_config(path, arguments)?;
        console::note(&format!("wrote {}", path.display()));
    }
    let config = AgentConfig::load(path)?;
    agent::drop_privileges(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(agent::init(&config))?;
    console::note(&format!(
        "site {} can run workers: Python {} with distributed {}",
        config.name, report.python, report.distributed
    ));
    console::note("next: start `fed agent run`, then let an operator in with `fed agent invite`");
    console::data(&report.fingerprint.to_string())
}

fn write_config(path: &Path, arguments: &Init) -> anyhow::Result<()> {
    let missing = || {
        format!(
            "{} does not exist; give --name and --address and it is written",
            path.display()
        )
    };
    let name = arguments.name.as_ref().with_context(missing)?;
    let address = arguments.address.as_ref().with_context(missing)?;
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut text = format!(
        "# The agent of a fed site. All keys: docs/agent.md\n\nname = {}\naddress = {}\n",
        quoted(name.as_str()),
        quoted(address)
    );
    if let Some(python) = &arguments.python {
        writeln!(text, "python = {}", quoted(python))?;
    }
    writeln!(text, "\n[[pool]]\nname = {}", quoted(name.as_str()))?;
    writeln!(text, "data = {}", serde_json::to_string(&arguments.data)?)?;
    let wrong = || format!("cannot write {}", path.display());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(wrong)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o644).open(path);
    std::io::Write::write_all(&mut file.with_context(wrong)?, text.as_bytes()).with_context(wrong)
}

fn serve(path: &Path) -> anyhow::Result<()> {
    console::log("info");
    let config = AgentConfig::load(path)?;
    agent::drop_privileges(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ready = |address| {
        // Only under systemd is there somebody to notify.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!(%error, %address, "systemd could not be told that the agent is ready");
        }
    };
    runtime.block_on(agent::run(config, ready))?;
    Ok(())
}
