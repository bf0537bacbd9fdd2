//! What a front end is told: progress while things happen, and how things stand.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use fed_core::{Failure, FederationId, FederationName, Phase, SiteName, VersionTable};
use serde::{Deserialize, Serialize};

use crate::node::{GatewayInfo, PeerReport};

/// A line of the checklist, by what is done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Asking what a site offers.
    Describe,
    /// Starting a member's node.
    Prepare,
    /// Starting the scheduler.
    Scheduler,
    /// Exchanging keys and addresses.
    Connect,
    /// Waiting for the tunnels.
    Probe,
    /// Starting a site's workers.
    Workers,
    /// Waiting until the scheduler knows all workers.
    Register,
    /// Opening the gateway to clients.
    Publish,
    /// Ending a member's part.
    Leave,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepState {
    /// It has begun.
    Begun,
    /// It is done.
    Done,
    /// It could not be done, and nobody waits for it any longer: a warning or the error says why.
    Failed,
}

/// Something that happens while a federation comes up, runs or ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Progress {
    /// A step began or was done.
    Step {
        /// The site, or `operator`.
        member: String,
        /// What is done.
        step: Step,
        /// How it stands.
        state: StepState,
    },
    /// The versions differ in a way that usually works.
    Versions {
        /// The table.
        table: VersionTable,
    },
    /// Clients can compute.
    Running {
        /// How it stands.
        status: Box<Status>,
    },
    /// Something that somebody should look at.
    Warning {
        /// What, where, and what to do.
        message: String,
    },
    /// Everything is being ended.
    Ending {
        /// Why, if it is not because the operator asked.
        failure: Option<Failure>,
    },
    /// Nothing is left, but at the sites that could not be told.
    Ended {
        /// Those.
        untold: Vec<Untold>,
    },
    /// There is no federation, and this is why.
    Failed {
        /// What failed, where, and what to do.
        message: String,
    },
}

/// A site that could not be told that its federation has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untold {
    /// Its name.
    pub site: SiteName,
    /// Why not.
    pub problem: String,
    /// When the site ends its part by itself at the latest: its lease has lapsed by then.
    pub ends_by: SystemTime,
}

impl Untold {
    /// A site that could not be told just now, and whose lease nobody renews any more.
    pub(super) fn now(site: SiteName, problem: String, lease: Duration) -> Self {
        // A renewal that seemed to fail may have been heard: the last moment of all is counted from.
        let ends_by = SystemTime::now() + lease;
        Self {
            site,
            problem,
            ends_by,
        }
    }
}

impl fmt::Display for Untold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} could not be told ({}) and ends its part when its lease lapses, at {} at the latest",
            self.site,
            self.problem,
            humantime::format_rfc3339_seconds(self.ends_by)
        )
    }
}

/// All of them, in one sentence.
pub(super) fn told_of(untold: &[Untold]) -> String {
    let each: Vec<String> = untold.iter().map(Untold::to_string).collect();
    each.join("; ")
}

/// How a federation stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: FederationName,
    /// Its id.
    pub federation: FederationId,
    /// Where it stands.
    pub phase: Phase,
    /// Seconds from `fed up` until all workers were registered.
    pub up_seconds: Option<f64>,
    /// Lease of the sites, in seconds.
    pub lease_seconds: u64,
    /// Where clients connect, once they can.
    pub gateway: Option<GatewayInfo>,
    /// Operator and sites, by ascending number.
    pub members: Vec<MemberReport>,
}

/// How a member stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// The site, or `operator`.
    pub name: String,
    /// Workers that the scheduler knows, by pool.
    pub pools: BTreeMap<String, Vec<WorkerReport>>,
    /// The member's tunnels, as it sees them.
    pub peers: Vec<PeerReport>,
    /// Packets that its node dropped or lost without concerning any one peer, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Why nothing could be learnt, if so.
    pub problem: Option<String>,
}

/// A worker as the scheduler knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Its name.
    pub name: String,
    /// Its threads.
    pub threads: u32,
    /// Its memory limit in bytes.
    pub memory_bytes: u64,
}
