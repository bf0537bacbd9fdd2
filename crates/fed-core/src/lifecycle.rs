//! The life of a federation as a state machine: events in, actions out.
//!
//! Steps of different members run side by side; a barrier stands only where the next step needs
//! what all members answered: nothing starts before every site's versions are known, peers are
//! exchanged once every node has made its key (with the operator last), and workers start once the
//! mesh is whole. They import what they need while the scheduler still does: it is waited for only
//! when they are to register with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{MemberId, Plan, Request, SiteDescription, SiteName};

/// One thing to do. Each is answered by one [`Event`], or by [`Event::Failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask a site what it offers. Answer: [`Event::Described`].
    Describe(SiteName),
    /// Start a member's node. Answer: [`Event::Prepared`].
    Prepare(MemberId),
    /// Start the scheduler in the operator's node. Answer: [`Event::SchedulerStarted`].
    StartScheduler,
    /// Tell a member's node its peers. Answer: [`Event::Connected`].
    Connect(MemberId, Vec<Peer>),
    /// Wait until a member's node has reached all its peers. Answer: [`Event::Reached`].
    Probe(MemberId),
    /// Start a site's workers. Answer: [`Event::WorkersStarted`].
    StartWorkers(MemberId),
    /// Wait until the scheduler knows these workers. Answer: [`Event::WorkersRegistered`].
    AwaitWorkers(Vec<String>),
    /// Open the gateway and tell clients how to find it. Answer: [`Event::Published`].
    Publish,
    /// End a member's part and leave nothing there. Answer: [`Event::Left`].
    Leave(MemberId),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A site told what it offers.
    Described(SiteName, Box<SiteDescription>),
    /// A member's node runs.
    Prepared(MemberId, Peer),
    /// The scheduler accepts connections.
    SchedulerStarted,
    /// A member's node knows its peers.
    Connected(MemberId),
    /// A member's node has shaken hands with all its peers.
    Reached(MemberId),
    /// A site's workers were started.
    WorkersStarted(MemberId, Vec<String>),
    /// The scheduler knows all workers.
    WorkersRegistered,
    /// Clients can connect.
    Published,
    /// A member's part has ended, or its lease will end it.
    Left(MemberId),
    /// An action failed, or a part that everything depends on died.
    Failed(Failure),
    /// A worker ended by itself. Before all are registered, the federation cannot come up.
    WorkerLost(Failure),
    /// The operator asked for the end.
    End,
}

/// A member's node, as the other members must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The member.
    pub member: MemberId,
    /// X25519 public key, base64.
    pub public_key: String,
    /// `host:port`, or nothing where the node can only dial out.
    pub endpoint: Option<String>,
    /// Where it may be reached besides: its own addresses, and those at which others see it.
    #[serde(default)]
    pub candidates: Vec<SocketAddr>,
    /// Fingerprint of the key by which it is known over TLS, where UDP does not pass.
    #[serde(default)]
    pub fingerprint: String,
}

/// An action that failed.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{}{message}", .member.as_ref().map(|name| format!("{name}: ")).unwrap_or_default())]
pub struct Failure {
    /// The site, or `operator`; nothing if the federation as a whole failed.
    pub member: Option<String>,
    /// What kind of failure.
    #[serde(default)]
    pub kind: FailureKind,
    /// What failed, where, and what to do.
    pub message: String,
}

/// What kind of failure, where front ends tell kinds apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Datagrams of one member do not reach another.
    Blocked,
    /// A port of this host is taken by another program.
    Taken,
    /// Any other.
    #[default]
    Other,
}

/// Where a federation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Sites are asked what they offer.
    Describing,
    /// Nodes start.
    Preparing,
    /// The mesh is built.
    Connecting,
    /// Workers start.
    Starting,
    /// The gateway opens.
    Publishing,
    /// Clients can compute.
    Running,
    /// Everything is being ended.
    Ending,
    /// Nothing is left.
    Ended,
}

/// Why a federation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The operator asked.
    Asked,
    /// Something failed.
    Failed(Failure),
}

/// How far one member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// Nothing runs there.
    Idle,
    /// Its node is being started.
    Preparing,
    /// Its node runs.
    Prepared,
    /// Its node knows its peers.
    Connected,
    /// Its node has reached its peers.
    Reached,
    /// Its workers were started.
    Started,
    /// It is being ended.
    Leaving,
    /// Its part has ended.
    Left,
}

/// The state machine of one federation.
#[derive(Debug)]
pub struct Lifecycle {
    request: Request,
    phase: Phase,
    descriptions: BTreeMap<SiteName, SiteDescription>,
    plan: Option<Plan>,
    members: BTreeMap<MemberId, MemberState>,
    peers: BTreeMap<MemberId, Peer>,
    workers: Vec<String>,
    scheduler: bool,
    reason: Option<Reason>,
}

impl Lifecycle {
    /// Begins a federation; returns the first actions.
    pub fn begin(request: Request) -> (Self, Vec<Action>) {
        let mut this = Self {
            phase: Phase::Describing,
            descriptions: BTreeMap::new(),
            plan: None,
            members: BTreeMap::new(),
            peers: BTreeMap::new(),
            workers: Vec::new(),
            scheduler: false,
            reason: None,
            request,
        };
        let actions = match this.request.check() {
            Ok(()) => this
                .request
                .sites
                .iter()
                .cloned()
                .map(Action::Describe)
                .collect(),
            Err(error) => this.end(Reason::Failed(Failure {
                member: None,
                kind: FailureKind::Other,
                message: error.to_string(),
            })),
        };
        (this, actions)
    }

    /// Where the federation stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The plan, once every site has answered.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// How far each member is.
    pub fn members(&self) -> &BTreeMap<MemberId, MemberState> {
        &self.members
    }

    /// The members' nodes that run.
    pub fn peers(&self) -> &BTreeMap<MemberId, Peer> {
        &self.peers
    }

    /// Why the federation ends, once it does.
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    /// Takes one event; returns what to do next. An event that comes late, or twice, does nothing.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Described(site, description) => self.described(site, *description),
            Event::Prepared(member, peer) => self.prepared(member, peer),
            Event::SchedulerStarted => {
                self.scheduler = true;
                self.await_workers()
            }
            Event::Connected(member) => self.connected(member),
            Event::Reached(member) => {
                self.advance(member, MemberState::Connected, MemberState::Reached);
                self.start_workers()
            }
            Event::WorkersStarted(member, names) => self.workers_started(member, names),
            Event::WorkersRegistered => self.registered(),
            Event::Published => {
                if self.phase == Phase::Publishing {
                    self.phase = Phase::Running;
                }
                Vec::new()
            }
            Event::Left(member) => self.left(member),
            Event::Failed(failure) => self.failed(failure),
            Event::WorkerLost(failure) if self.phase == Phase::Starting => self.failed(failure),
            Event::WorkerLost(_) => Vec::new(),
            Event::End => self.end(Reason::Asked),
        }
    }

    fn described(&mut self, site: SiteName, description: SiteDescription) -> Vec<Action> {
        if self.phase != Phase::Describing || !self.request.sites.contains(&site) {
            return Vec::new();
        }
        self.descriptions.insert(site, description);
        if self.descriptions.len() < self.request.sites.len() {
            return Vec::new();
        }
        match Plan::new(&self.request, &self.descriptions) {
            Ok(plan) => {
                let members: Vec<_> = plan.members().into_iter().map(|member| member.id).collect();
                self.members = members
                    .iter()
                    .map(|member| (*member, MemberState::Preparing))
                    .collect();
                self.plan = Some(plan);
                self.phase = Phase::Preparing;
                members.into_iter().map(Action::Prepare).collect()
            }
            Err(error) => self.end(Reason::Failed(Failure {
                member: None,
                kind: FailureKind::Other,
                message: error.to_string(),
            })),
        }
    }

    fn prepared(&mut self, member: MemberId, peer: Peer) -> Vec<Action> {
        // A node that came up while the federation was already ending must be ended too.
        if self.phase == Phase::Ending {
            return self.leave(member);
        }
        if !self.advance(member, MemberState::Preparing, MemberState::Prepared) {
            return Vec::new();
        }
        self.peers.insert(member, peer);
        let mut actions = Vec::new();
        if member == MemberId::OPERATOR {
            actions.push(Action::StartScheduler);
        }
        if self.all(MemberState::Prepared) {
            self.phase = Phase::Connecting;
            let sites = self
                .members
                .keys()
                .filter(|member| **member != MemberId::OPERATOR);
            actions.extend(sites.map(|member| self.connect(*member)));
        }
        actions
    }

    fn connect(&self, member: MemberId) -> Action {
        let others = self.peers.values().filter(|peer| peer.member != member);
        Action::Connect(member, others.cloned().collect())
    }

    /// The operator is connected last. Sites do not know where it is, so it has to begin the
    /// handshakes, and a handshake with a node that does not know its peer yet is lost.
    fn connected(&mut self, member: MemberId) -> Vec<Action> {
        if !self.advance(member, MemberState::Prepared, MemberState::Connected) {
            return Vec::new();
        }
        let mut actions = vec![Action::Probe(member)];
        let waiting = |(_, state): &(&MemberId, &MemberState)| **state < MemberState::Connected;
        let missing: Vec<&MemberId> = self
            .members
            .iter()
            .filter(waiting)
            .map(|(member, _)| member)
            .collect();
        if missing == [&MemberId::OPERATOR] {
            actions.push(self.connect(MemberId::OPERATOR));
        }
        actions
    }

    fn start_workers(&mut self) -> Vec<Action> {
        if self.phase != Phase::Connecting || !self.all(MemberState::Reached) {
            return Vec::new();
        }
        self.phase = Phase::Starting;
        self.members
            .insert(MemberId::OPERATOR, MemberState::Started);
        let sites = self
            .members
            .keys()
            .filter(|member| **member != MemberId::OPERATOR);
        sites.copied().map(Action::StartWorkers).collect()
    }

    fn workers_started(&mut self, member: MemberId, names: Vec<String>) -> Vec<Action> {
        if self.phase != Phase::Starting
            || !self.advance(member, MemberState::Reached, MemberState::Started)
        {
            return Vec::new();
        }
        self.workers.extend(names);
        self.workers.sort();
        self.await_workers()
    }

    fn await_workers(&self) -> Vec<Action> {
        if self.phase != Phase::Starting || !self.scheduler || !self.all(MemberState::Started) {
            return Vec::new();
        }
        vec![Action::AwaitWorkers(self.workers.clone())]
    }

    fn registered(&mut self) -> Vec<Action> {
        if self.phase != Phase::Starting || !self.all(MemberState::Started) {
            return Vec::new();
        }
        self.phase = Phase::Publishing;
        vec![Action::Publish]
    }

    /// A member whose node could not be started still gets its [`Action::Leave`]: the call may
    /// have reached the site although its answer never came back.
    fn failed(&mut self, failure: Failure) -> Vec<Action> {
        let failed = self.plan.as_ref().and_then(|plan| {
            let members = plan.members();
            let member = members
                .into_iter()
                .find(|member| Some(&member.name) == failure.member.as_ref());
            member.map(|member| member.id)
        });
        let mut actions = self.end(Reason::Failed(failure));
        if let Some(member) = failed
            && self.members.get(&member) == Some(&MemberState::Preparing)
        {
            actions.extend(self.leave(member));
        }
        actions
    }

    /// Ends every member whose node runs. One whose node is just being started is ended when that
    /// is answered, so that the end cannot overtake the start.
    fn end(&mut self, reason: Reason) -> Vec<Action> {
        if self.phase >= Phase::Ending {
            return Vec::new();
        }
        self.reason = Some(reason);
        self.phase = Phase::Ending;
        let started: Vec<MemberId> = self
            .members
            .iter()
            .filter(|(_, state)| **state >= MemberState::Prepared)
            .map(|(member, _)| *member)
            .collect();
        let actions = started
            .into_iter()
            .flat_map(|member| self.leave(member))
            .collect();
        self.finish();
        actions
    }

    fn leave(&mut self, member: MemberId) -> Vec<Action> {
        match self.members.get_mut(&member) {
            Some(state) if *state < MemberState::Leaving => {
                *state = MemberState::Leaving;
                vec![Action::Leave(member)]
            }
            _ => Vec::new(),
        }
    }

    fn left(&mut self, member: MemberId) -> Vec<Action> {
        self.advance(member, MemberState::Leaving, MemberState::Left);
        self.finish();
        Vec::new()
    }

    fn finish(&mut self) {
        let done = |state: &MemberState| matches!(state, MemberState::Idle | MemberState::Left);
        if self.phase == Phase::Ending && self.members.values().all(done) {
            self.phase = Phase::Ended;
        }
    }

    fn advance(&mut self, member: MemberId, from: MemberState, to: MemberState) -> bool {
        match self.members.get_mut(&member) {
            Some(state) if *state == from => {
                *state = to;
                true
            }
            _ => false,
        }
    }

    fn all(&self, wanted: MemberState) -> bool {
        self.members.values().all(|state| *state == wanted)
    }
}

#[cfg(test)]
mod tests;
