//! `fed agent`: the daemon of a data centre.

use std::path::PathBuf;
use std::time::Duration;

use fed_core::SiteName;
use fed_service::agent::{self, AgentConfig, ConfigFile, Draft, Operator, Roster};

use crate::console::{self, Output};
use crate::paths;
use crate::time::duration;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Prepare this host: write agent.toml where there is none, make the agent's key, check the host
    Init(Init),
    /// Print an invitation that lets one operator in, once
    Invite(Invite),
    /// Run the agent; SIGHUP has it read agent.toml again
    Run(Run),
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
        self.load_dialling(&[])
    }

    /// The same for an agent that dials these operators too.
    fn load_dialling(&self, dial: &[String]) -> anyhow::Result<(ConfigFile, AgentConfig)> {
        let file = ConfigFile {
            dial: dial.to_vec(),
            ..self.file()?
        };
        let config = file.load()?;
        agent::drop_privileges(&config)?;
        Ok((file, config))
    }
}

#[derive(clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    config: Config,
    /// Dial the operator at this address, besides those in agent.toml: where this host accepts no
    /// connections; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    dial: Vec<String>,
}

fn host_and_port(text: &str) -> Result<String, String> {
    match fed_rpc::is_address(text) {
        true => Ok(text.to_owned()),
        false => Err(
            "write host:port as this agent reaches the operator, such as operator.example:4789, \
             and an IPv6 host in brackets"
                .to_owned(),
        ),
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
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
    after: Duration,
}

#[derive(clap::Args)]
pub(crate) struct Init {
    #[command(flatten)]
    config: Config,
    /// Name of the site, for a new agent.toml
    #[arg(long, value_name = "SITE")]
    name: Option<SiteName>,
    /// host:port at which operators reach the agent, for a new agent.toml; the agent listens on
    /// this port [default port: 4788]
    #[arg(long, value_name = "HOST[:PORT]")]
    address: Option<String>,
    /// host:port of an operator that the agent dials, for a new agent.toml: where this host accepts
    /// no connections. Instead of --address, or besides; may be repeated
    #[arg(long, value_name = "HOST:PORT")]
    dial: Vec<String>,
    /// Interpreter of the workers, with distributed, for a new agent.toml [default: python3]
    #[arg(long, value_name = "INTERPRETER")]
    python: Option<String>,
    /// User that an agent started as root becomes, for a new agent.toml
    #[arg(long)]
    user: Option<String>,
    /// Folder or URL prefix of the site's data, for a new agent.toml; may be repeated
    #[arg(long, value_name = "ROOT")]
    data: Vec<String>,
}

impl Init {
    fn draft(&self) -> std::io::Result<Draft> {
        // An empty one is refused with the rest.
        let absolute = |root: &String| match root.contains("://") || root.is_empty() {
            true => Ok(root.clone()),
            false => std::path::absolute(root).map(|path| path.display().to_string()),
        };
        Ok(Draft {
            name: self.name.clone(),
            address: self.address.clone(),
            dial: self.dial.clone(),
            python: self.python.clone(),
            user: self.user.clone(),
            data: self.data.iter().map(absolute).collect::<Result<_, _>>()?,
        })
    }
}

#[derive(clap::Args)]
pub(crate) struct Invite {
    #[command(flatten)]
    config: Config,
    /// How long the invitation is valid
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    expires: Duration,
    /// What the operator is called here, whatever they call themselves: limits by name count for
    /// names that were given so
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
    /// The agent dials the operator at this address, besides those in agent.toml; may be repeated
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    dial: Vec<String>,
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
    let mut draft = arguments.draft()?;
    if !file.path.exists() {
        let (_, config) = draft.text(&file)?;
        let fitness = runtime()?.block_on(agent::check(&config))?;
        // By its path: the agent may be started with another $PATH, or outside an environment.
        draft.python.get_or_insert(fitness.executable);
        let (text, _) = draft.text(&file)?;
        agent::write(&file, &text)?;
        console::note(&format!("wrote {}", file.path.display()));
    }
    let (_, config) = arguments.config.load()?;
    draft.agrees(&file, &config)?;
    let fitness = runtime()?.block_on(agent::check(&config))?;
    let fingerprint = agent::init(&config)?;
    console::note(&format!(
        "site {} can run workers: Python {} with distributed {}",
        config.name, fitness.python, fitness.distributed
    ));
    for warning in fitness.warnings {
        console::note(&format!("warning: {warning}"));
    }
    console::note("next: start `fed agent run`, then let an operator in with `fed agent invite`");
    console::note("the agent's key:");
    console::data(&fingerprint.to_string())
}

fn invite(arguments: &Invite) -> anyhow::Result<()> {
    let (_, config) = arguments.config.load_dialling(&arguments.dial)?;
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
            console::log("warn");
            let removed = agent::remove_operator(&config.state, operator);
            let removed = runtime()?.block_on(removed)?;
            if arguments.output == Output::Json {
                return console::json(&removed);
            }
            let name = &removed.keys[0].name;
            console::note(&match removed.ended {
                Some(ended) => format!(
                    "removed {name}, and ended {} of theirs",
                    console::count(ended, "federation")
                ),
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
    console::note("the agent's new key:");
    console::data(&announced.fingerprint.to_string())
}

fn serve(arguments: &Run) -> anyhow::Result<()> {
    console::log("info");
    let (file, config) = arguments.config.load_dialling(&arguments.dial)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ready = |_| {
        // Only under systemd is there somebody to notify.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            tracing::warn!(%error, "systemd could not be told that the agent is ready");
        }
    };
    runtime.block_on(agent::run(file, config, ready))?;
    Ok(())
}
