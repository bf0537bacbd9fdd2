//! The federation of the demonstration, from enrolment to what is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fed_testkit::{Host, Lab, Leftovers, Snapshot};
use serde::Deserialize;

use super::conversation::Conversation;
use super::ground::Ground;
use super::measure::{self, Traffic};
use super::site::Site;
use super::{CALCULATIONS, OPERATOR, SITES, WORKERS_PER_SITE, program, table};
use crate::console;

/// The operator's state, in its host.
const STATE: &str = "/run/fed-operator";
/// Short commands.
const LIMIT: Duration = Duration::from_secs(30);
/// `fed up`, on a machine that is busy otherwise.
const UP_LIMIT: Duration = Duration::from_secs(120);
/// One calculation.
const CALCULATION_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How often the operator tries to reach an agent that has just been started.
const RETRY: Duration = Duration::from_millis(100);
/// Places in each host where fed could leave files.
const FOLDERS: [&str; 2] = ["/run", "/dev/shm"];

/// Sites with running agents, and an operator enrolled at them.
pub(super) struct Federation<'a> {
    ground: &'a Ground,
    lab: &'a Lab,
    sites: Vec<Site<'a>>,
    /// Before the first agent was started.
    pristine: Snapshot,
    /// Before `fed up`.
    enrolled: Snapshot,
}

/// What a calculation took.
pub(super) struct Outcome {
    pub(super) seconds: f64,
    pub(super) traffic: Traffic,
    pub(super) tasks_per_site: BTreeMap<String, u64>,
    pub(super) foreign_reads: u64,
    pub(super) cross_pool_steals: u64,
}

#[derive(Deserialize)]
struct Answer {
    seconds: f64,
    tasks_per_site: BTreeMap<String, u64>,
    foreign_reads: u64,
    cross_pool_steals: u64,
}

impl<'a> Federation<'a> {
    /// Starts an agent at each site and enrols the operator there.
    ///
    /// # Errors
    /// If a command fails.
    pub(super) fn enrol(ground: &'a Ground, lab: &'a Lab) -> Result<Self> {
        let pristine = Leftovers::of_lab(lab).snapshot()?;
        let mut sites = Vec::new();
        for name in SITES {
            let site = Site::start(ground, lab.host(name))?;
            let invitation = site.invite()?;
            add(ground, lab.host(OPERATOR), site.host().name(), &invitation)?;
            sites.push(site);
        }
        let enrolled = files(lab).snapshot()?;
        Ok(Self {
            ground,
            lab,
            sites,
            pristine,
            enrolled,
        })
    }

    /// Brings the federation up. Returns the seconds until `fed up` said that it runs: all workers
    /// are registered, which they do after their preloads.
    ///
    /// # Errors
    /// If it does not come up.
    pub(super) fn up(&self) -> Result<f64> {
        let mut command = self.operator()?;
        command.args(["up", "--detach"]).args(SITES);
        command
            .args(["--output", "json", "--python"])
            .arg(self.ground.python())
            .stderr(Stdio::inherit());
        let start = Instant::now();
        let interrupt = self.ground.interrupt();
        program::output("fed up", &mut command, None, UP_LIMIT, interrupt)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Runs every calculation in a warm client on the operator's host.
    ///
    /// # Errors
    /// If one fails.
    pub(super) fn calculate(&self) -> Result<Vec<Outcome>> {
        let workers = usize::try_from(WORKERS_PER_SITE)? * SITES.len();
        let mut command = self
            .ground
            .script(self.lab.host(OPERATOR), "federated.py")?;
        command
            .args([self.ground.example(), self.ground.results("federated")?])
            .arg(workers.to_string())
            .env("FED_STATE_DIR", STATE);
        let interrupt = self.ground.interrupt();
        let mut client = Conversation::start("the federation's client", &mut command, interrupt)?;
        let outcomes = CALCULATIONS
            .into_iter()
            .map(|name| self.run(&mut client, name))
            .collect::<Result<Vec<_>>>()?;
        client.end()?;
        Ok(outcomes)
    }

    fn run(&self, client: &mut Conversation, name: &str) -> Result<Outcome> {
        let ask = || client.ask::<Answer>(name, CALCULATION_LIMIT);
        let (answer, traffic) = measure::traffic(self.lab, ask)?;
        console::progress(&format!(
            "       {name}: {:.2} s, {} over the WAN",
            answer.seconds,
            table::bytes(traffic.bytes)
        ));
        Ok(Outcome {
            seconds: answer.seconds,
            traffic,
            tasks_per_site: answer.tasks_per_site,
            foreign_reads: answer.foreign_reads,
            cross_pool_steals: answer.cross_pool_steals,
        })
    }

    /// Ends the federation, then the agents. Returns what is left: processes, namespaces, devices
    /// and files, a line each.
    ///
    /// # Errors
    /// If a command fails.
    pub(super) fn down(self) -> Result<Vec<String>> {
        let mut command = self.operator()?;
        command.arg("down").stderr(Stdio::inherit());
        let interrupt = self.ground.interrupt();
        program::output("fed down", &mut command, None, LIMIT, interrupt)?;
        let files = files(self.lab).since(&self.enrolled)?;
        self.sites.into_iter().try_for_each(Site::stop)?;
        let others = Leftovers::of_lab(self.lab).since(&self.pristine)?;
        let all: BTreeSet<_> = files.into_iter().chain(others).collect();
        Ok(all.into_iter().collect())
    }

    fn operator(&self) -> Result<Command> {
        operator(self.ground, self.lab.host(OPERATOR))
    }
}

fn operator(ground: &Ground, host: &Host) -> Result<Command> {
    let mut command = ground.fed(host)?;
    command.args(["--state", STATE]);
    Ok(command)
}

/// Redeems an invitation as soon as the site's agent listens.
fn add(ground: &Ground, host: &Host, site: &str, invitation: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let name = format!("fed site add {site}");
    loop {
        let mut command = operator(ground, host)?;
        command.args(["site", "add", site, "-"]);
        let input = Some(invitation);
        let Err(error) = program::output(&name, &mut command, input, LIMIT, ground.interrupt())
        else {
            return Ok(());
        };
        ground.interrupt().check()?;
        if Instant::now() >= deadline {
            return Err(error).context("the site's agent cannot be reached");
        }
        std::thread::sleep(RETRY);
    }
}

fn files(lab: &Lab) -> Leftovers {
    let mut leftovers = Leftovers::of_lab(lab);
    for host in lab.hosts() {
        for folder in FOLDERS {
            leftovers = leftovers.folder(host.path(folder));
        }
    }
    leftovers
}
