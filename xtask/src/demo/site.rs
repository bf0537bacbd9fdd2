//! A site: its agent, from configuration to invitation.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use fed_testkit::Host;

use super::WORKERS_PER_SITE;
use super::ground::Ground;
use super::program::{self, Program};

/// The agent's configuration, in its host.
const CONFIGURATION: &str = "/run/fed-agent.toml";
/// Short commands.
const LIMIT: Duration = Duration::from_secs(30);

/// A site whose agent runs.
pub(super) struct Site<'a> {
    ground: &'a Ground,
    host: &'a Host,
    agent: Program,
}

impl<'a> Site<'a> {
    /// Sets the agent up and starts it.
    ///
    /// # Errors
    /// If a command fails.
    pub(super) fn start(ground: &'a Ground, host: &'a Host) -> Result<Self> {
        let configuration = configuration(host.name(), ground.python());
        std::fs::write(host.path(CONFIGURATION), configuration)
            .with_context(|| format!("cannot write {CONFIGURATION} in {}", host.name()))?;
        let name = format!("fed agent init at {}", host.name());
        let mut command = agent(ground, host, "init")?;
        program::output(&name, &mut command, None, LIMIT, ground.interrupt())?;
        let name = format!("the agent of {}", host.name());
        let agent = Program::start(&name, &mut agent(ground, host, "run")?, ground.interrupt())?;
        Ok(Self {
            ground,
            host,
            agent,
        })
    }

    /// The host that the site is.
    pub(super) fn host(&self) -> &'a Host {
        self.host
    }

    /// An invitation for the operator: one line.
    ///
    /// # Errors
    /// If the command fails.
    pub(super) fn invite(&self) -> Result<String> {
        let name = format!("fed agent invite at {}", self.host.name());
        let mut command = agent(self.ground, self.host, "invite")?;
        let interrupt = self.ground.interrupt();
        let line = program::output(&name, &mut command, None, LIMIT, interrupt)?;
        Ok(line.trim().to_owned())
    }

    /// Ends the agent.
    ///
    /// # Errors
    /// If it does not end.
    pub(super) fn stop(self) -> Result<()> {
        self.agent.stop()
    }
}

fn agent(ground: &Ground, host: &Host, verb: &str) -> Result<Command> {
    let mut command = ground.fed(host)?;
    command.args(["agent", verb, "--config", CONFIGURATION]);
    Ok(command)
}

fn configuration(name: &str, python: &Path) -> String {
    format!(
        "name = {name:?}\n\
         address = \"{name}:4788\"\n\
         state = \"/run/fed-agent\"\n\
         python = {python:?}\n\
         \n\
         [[pool]]\n\
         name = {name:?}\n\
         data = [\"/data/{name}\"]\n\
         workers = {WORKERS_PER_SITE}\n\
         threads = 1\n\
         memory = \"2 GiB\"\n"
    )
}
