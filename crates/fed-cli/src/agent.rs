//! `fed agent`: the daemon of a data centre.

use std::fmt::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use fed_core::SiteName;
use fed_service::agent::{self, AgentConfig, ConfigFile, Operator, Roster};

use crate::console::{self, Output};
use crate::paths;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Prepare this host: write agent.toml where there is none, make the agent's key, check the host
    Init(Init),
    /// Print an invitation that lets one operator in, once
    Invite(Invite),
    /// Run the agent; SIGHUP has it read agent.toml again
    Run(Config),
    /// List the operators who are enrolled, or remove one
    Operators(Operators),
    /// Change the agent's key: announce a new one now, use it later
    Rotate(Rotate),
}

#[derive(clap::Args)]
pub(crate) struct Config {
    /// The agent's configuration [default: /etc/fed/agent.toml; for a user other than root the one
    /// in ~/.config/fed, if there is one or none in /etc/fed]
    #[arg(long, env = "FED_AGENT_CONFIG", value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

impl Config {
    fn file(&self) -> anyhow::Result<ConfigFile> {
        paths::agent(self.config.as_deref())
    }

    /// Reads the configuration, and becomes the user that it names.
    fn load(&self) -> anyhow::Result<(ConfigFile, AgentConfig)> {
        let file = self.file()?;
        let config = file.load()?;
        agent::drop_privileges(&config)?;
        Ok((file, config))
    }
}

#[derive(clap::Args)]
pub(crate) struct Operators {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    command: Option<OperatorsCommand>,
    /// How they are printed
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    output: Output,
}

#[derive(clap::Subcommand)]
enum OperatorsCommand {
    /// List the operators who are enrolled
    List,
    /// Remove an operator: ends what they run, and refuses them from now on
    Remove {
        /// Name or fingerprint
        operator: String,
    },
}

#[derive(clap::Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    config: Config,
    /// How long the new key is announced before it is used. Operators who do not call in this time
    /// need an invitation again
    #[arg(long, default_value = "7d", value_parser = humantime::parse_duration)]
    after: Duration,
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
    /// What the operator is called here, whatever they call themselves: limits by name count for
    /// names that were given so
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init(arguments) => init(&arguments),
        Command::Invite(arguments) => invite(&arguments),
        Command::Run(arguments) => serve(&arguments),
        Command::Operators(arguments) => operators(&arguments),
        Command::Rotate(arguments) => rotate(&arguments),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    Ok(builder.enable_all().build()?)
}

fn init(arguments: &Init) -> anyhow::Result<()> {
    let file = arguments.config.file()?;
    if !file.path.exists() {
        write_config(&file, arguments)?;
        console::note(&format!("wrote {}", file.path.display()));
    }
    let (_, config) = arguments.config.load()?;
    let report = runtime()?.block_on(agent::init(&config))?;
    console::note(&format!(
        "site {} can run workers: Python {} with distributed {}",
        config.name, report.python, report.distributed
    ));
    console::note("next: start `fed agent run`, then let an operator in with `fed agent invite`");
    console::data(&report.fingerprint.to_string())
}

fn invite(arguments: &Invite) -> anyhow::Result<()> {
    let (_, config) = arguments.config.load()?;
    let invited = agent::invite(&config, arguments.expires, arguments.operator.as_deref())?;
    if invited.valid < arguments.expires {
        console::note(&format!(
            "valid for {}: then the agent changes to another key",
            humantime::format_duration(invited.valid)
        ));
    }
    console::data(&invited.line)
}

fn operators(arguments: &Operators) -> anyhow::Result<()> {
    let (_, config) = arguments.config.load()?;
    match &arguments.command {
        None | Some(OperatorsCommand::List) => {
            let operators = Roster::open(&config.state)?.operators()?;
            if arguments.output == Output::Json {
                return console::json(&operators);
            }
            if operators.is_empty() {
                console::note("nobody yet; `fed agent invite` lets an operator in");
            }
            operators
                .iter()
                .try_for_each(|operator| console::data(&line(operator)))
        }
        Some(OperatorsCommand::Remove { operator }) => {
            let removed = agent::remove_operator(&config.state, operator);
            let removed = runtime()?.block_on(removed)?;
            if arguments.output == Output::Json {
                return console::json(&removed);
            }
            let name = &removed.keys[0].name;
            console::note(&match removed.ended {
                Some(ended) => format!("removed {name}, and ended {ended} federations of theirs"),
                None => format!(
                    "removed {name}; no agent runs here, so what they run ends when one starts, or \
                     with its lease"
                ),
            });
            removed
                .keys
                .iter()
                .try_for_each(|key| console::data(&line(key)))
        }
    }
}

fn line(operator: &Operator) -> String {
    let until = operator.until.map(|until| {
        let until = std::time::UNIX_EPOCH + Duration::from_secs(until);
        format!(
            "  (old key, until {})",
            humantime::format_rfc3339_seconds(until)
        )
    });
    format!(
        "{}  {}{}",
        operator.fingerprint,
        operator.name,
        until.unwrap_or_default()
    )
}

fn rotate(arguments: &Rotate) -> anyhow::Result<()> {
    let (_, config) = arguments.config.load()?;
    let rotated = agent::rotate(&config.state, config.name.as_str(), arguments.after);
    let announced = runtime()?.block_on(rotated)?;
    let from = std::time::UNIX_EPOCH + Duration::from_secs(announced.from);
    console::note(&format!(
        "the agent uses the new key from {} on; operators who call until then learn it, and others \
         need an invitation again",
        humantime::format_rfc3339_seconds(from)
    ));
    console::data(&announced.fingerprint.to_string())
}

fn write_config(file: &ConfigFile, arguments: &Init) -> anyhow::Result<()> {
    let path = &file.path;
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
        "# The agent of a fed site. All keys: docs/agent.md\n\nname = {}\naddress = {}\nstate = {}\n",
        quoted(name.as_str()),
        quoted(address),
        quoted(&file.state.display().to_string())
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

fn serve(arguments: &Config) -> anyhow::Result<()> {
    console::log("info");
    let (file, config) = arguments.load()?;
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
    runtime.block_on(agent::run(file, config, ready))?;
    Ok(())
}
