//! `fed site`: the sites this operator is enrolled at.

use std::io::Read as _;
use std::time::Duration;

use anyhow::Context as _;
use fed_core::SiteName;
use fed_rpc::Invitation;
use fed_service::operator::{self, Way};

use crate::console::{self, Output};
use crate::time::duration;
use crate::{Global, paths};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Redeem a site's invitation: from then on `fed up` may name the site
    Add(Add),
    /// List the sites
    List(List),
    /// Forget a site; it still knows the operator's key (`fed agent operators remove` there)
    Remove(Remove),
    /// Change the operator's key, at every site at once
    Rotate(Rotate),
}

#[derive(clap::Args)]
pub(crate) struct Add {
    /// Name of the site
    name: SiteName,
    /// The line that `fed agent invite` printed; `-` reads it from standard input, where other
    /// users of this host cannot see it
    invitation: String,
    /// What the site's log calls you [default: user@host]
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
    /// The site's agent dials this host, as those behind a firewall do: await it at this address and
    /// port [default for such sites: all addresses, and the port that the agent dials]
    #[arg(long, value_name = "ADDR:PORT", value_parser = socket_address)]
    listen: Option<String>,
}

fn socket_address(text: &str) -> Result<String, String> {
    let parsed = text.parse::<std::net::SocketAddr>();
    parsed.map(|address| address.to_string()).map_err(|_| {
        "write the address and port of this host, such as [::]:4789 or 192.0.2.1:4789".to_owned()
    })
}

#[derive(clap::Args)]
pub(crate) struct List {
    /// How they are printed
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(clap::Args)]
pub(crate) struct Remove {
    /// Name of the site
    name: SiteName,
}

#[derive(clap::Args)]
pub(crate) struct Rotate {
    /// How long the old key still counts, for federations that are up (30 days at most)
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
    keep: Duration,
}

pub(crate) fn run(global: &Global, command: Command) -> anyhow::Result<()> {
    console::log("warn");
    let state = paths::state(global)?;
    match command {
        Command::Add(arguments) => {
            let invitation: Invitation = read(&arguments.invitation)?.trim().parse()?;
            let name = arguments.operator.unwrap_or_else(own_name);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let (site, listen) = (&arguments.name, arguments.listen.as_deref());
            if let Some(listen) = listen {
                console::note(&format!("waiting for the agent of {site} to dial {listen}"));
            }
            let enrolled = operator::enrol(&state, site, &invitation, &name, listen);
            console::note(&match runtime.block_on(enrolled)?.way {
                Way::Address(address) => format!("added {site} at {address}"),
                Way::Listen(listen) => format!(
                    "added {site}, whose agent dials: commands that need it listen at {listen}"
                ),
            });
            Ok(())
        }
        Command::List(arguments) => {
            let sites = state.sites()?;
            if arguments.output == Output::Json {
                return console::json(&sites);
            }
            if sites.is_empty() {
                console::note("no site yet; `fed site add NAME INVITATION` adds one");
            }
            for (name, site) in sites {
                console::data(&format!(
                    "{name:<16} {:<32} {}",
                    site.way.to_string(),
                    site.fingerprint
                ))?;
            }
            Ok(())
        }
        Command::Remove(arguments) => {
            state.remove_site(&arguments.name)?;
            console::note(&format!("removed {}", arguments.name));
            Ok(())
        }
        Command::Rotate(arguments) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let rotated = runtime.block_on(operator::rotate(&state, arguments.keep))?;
            for site in rotated.lingering {
                console::note(&format!(
                    "warning: {site} knows the new key, but lets the old one count for 30 days"
                ));
            }
            for name in state.federations()? {
                console::note(&format!(
                    "federation {name} goes on with the old key, for {} at most",
                    humantime::format_duration(arguments.keep)
                ));
            }
            console::note("the new key of this operator:");
            console::data(&rotated.fingerprint.to_string())
        }
    }
}

fn read(argument: &str) -> anyhow::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("cannot read the invitation")?;
    Ok(text)
}

fn own_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid())
        .ok()
        .flatten();
    let user = user.map_or_else(|| nix::unistd::getuid().to_string(), |user| user.name);
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|host| host.into_string().ok());
    format!("{user}@{}", host.unwrap_or_else(|| "unknown".to_owned()))
}
