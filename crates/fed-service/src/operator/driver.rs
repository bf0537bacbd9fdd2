//! Carries out the actions of the life cycle, each as a task of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fed_core::{
    Action, Event, Failure, FailureKind, Leases, MemberId, Peer, Plan, PoolName, SiteName,
};
use fed_rpc::Identity;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::inbound::Inbound;
use super::report::{Step, Untold};
use super::scheduler;
use super::site::{SiteClient, SiteError};
use super::state::{FederationFolder, OperatorState, Site};
use crate::node::{self, GatewayInfo, MeshReport, NodeClient, NodeSpec, Supervision};
use crate::python::{self, Interpreter};

/// How often a state that somebody else changes is looked at.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// What a task brought about.
#[derive(Debug)]
pub(super) enum Outcome {
    /// An event of the life cycle, and no more.
    Event(Event),
    /// A site answered over this connection.
    Site(Box<SiteClient>, Event),
    /// The operator's node runs.
    Node(Box<Supervision>, Event),
    /// The scheduler runs behind this gateway.
    Gateway(GatewayInfo, Event),
    /// A member has left; if not in order, this is why.
    Left(MemberId, Option<Untold>),
    /// A site says that its part has ended, and why.
    SiteEnded(SiteName, String),
    /// A site has renewed its lease; it was asked at this time.
    Renewed(SiteName, Instant),
}

/// Why an action failed.
pub(super) enum Trouble {
    /// What went wrong where it is carried out.
    Own(String),
    /// Which members do not reach one another, whoever noticed.
    Blocked(String),
    /// A port of this host that another program has.
    Taken(String),
}

impl From<String> for Trouble {
    fn from(message: String) -> Self {
        Self::Own(message)
    }
}

impl From<SiteError> for Trouble {
    fn from(error: SiteError) -> Self {
        let message = error.to_string();
        if matches!(&error, SiteError::Connect(error) if error.is_port_taken()) {
            Self::Taken(message)
        } else {
            Self::Own(message)
        }
    }
}

impl Trouble {
    /// What it means for the federation; `who` was to do it.
    fn failure(self, who: String) -> Failure {
        let (member, kind, message) = match self {
            Self::Own(message) => (Some(who), FailureKind::Other, message),
            Self::Blocked(message) => (None, FailureKind::Blocked, message),
            Self::Taken(message) => (None, FailureKind::Taken, message),
        };
        Failure {
            member,
            kind,
            message,
        }
    }
}

/// What every action may need. Cloned into tasks.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    pub(super) state: OperatorState,
    pub(super) inbound: Inbound,
    pub(super) identity: Arc<Identity>,
    pub(super) inventory: Arc<BTreeMap<SiteName, Site>>,
    pub(super) interpreter: Interpreter,
    pub(super) readable: Arc<Vec<PathBuf>>,
    pub(super) program: PathBuf,
    pub(super) folder: FederationFolder,
    pub(super) sites: BTreeMap<SiteName, SiteClient>,
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) gateway: Option<GatewayInfo>,
    /// Cancelled once it has been told that the operator's node died.
    pub(super) node_died: CancellationToken,
    pub(super) outcomes: mpsc::Sender<Outcome>,
}

/// Who does an action, and which line of the checklist it is.
pub(super) fn describe(action: &Action, plan: Option<&Plan>) -> (String, Step) {
    let name = |member: &MemberId| {
        let members = plan.map(Plan::members).unwrap_or_default();
        let found = members.into_iter().find(|other| other.id == *member);
        found.map_or_else(|| format!("{member:?}"), |member| member.name)
    };
    let operator = || name(&MemberId::OPERATOR);
    match action {
        Action::Describe(site) => (site.to_string(), Step::Describe),
        Action::Prepare(member) => (name(member), Step::Prepare),
        Action::StartScheduler => (operator(), Step::Scheduler),
        Action::Connect(member, _) => (name(member), Step::Connect),
        Action::Probe(member) => (name(member), Step::Probe),
        Action::StartWorkers(member) => (name(member), Step::Workers),
        Action::AwaitWorkers(_) => (operator(), Step::Register),
        Action::Publish => (operator(), Step::Publish),
        Action::Leave(member) => (name(member), Step::Leave),
    }
}

impl Driver {
    /// Starts an action; its outcome comes by the channel.
    pub(super) fn start(&self, action: Action) {
        let driver = self.clone();
        tokio::spawn(async move {
            let (who, _) = describe(&action, driver.plan.as_deref());
            let outcome = match driver.carry_out(action.clone()).await {
                Ok(outcome) => outcome,
                Err(trouble) => {
                    driver.let_death_be_told(&action).await;
                    Outcome::Event(Event::Failed(trouble.failure(who)))
                }
            };
            // Fails only when the operator has ended, and then nobody waits for it.
            let _ = driver.outcomes.send(outcome).await;
        });
    }

    async fn carry_out(&self, action: Action) -> Result<Outcome, Trouble> {
        let event = match action {
            Action::Describe(site) => return self.describe_site(site).await,
            Action::Prepare(MemberId::OPERATOR) => return Ok(self.start_node().await?),
            Action::Prepare(member) => {
                let peer = self.site(member)?.prepare(self.plan()?, member).await;
                Event::Prepared(member, peer.map_err(|error| error.to_string())?)
            }
            Action::StartScheduler => return Ok(self.start_scheduler().await?),
            Action::Connect(member, peers) => {
                self.connect(member, peers).await?;
                Event::Connected(member)
            }
            Action::Probe(member) => {
                self.await_peers(member).await?;
                Event::Reached(member)
            }
            Action::StartWorkers(member) => {
                Event::WorkersStarted(member, self.start_workers(member).await?)
            }
            Action::AwaitWorkers(names) => {
                self.await_workers(&names).await?;
                Event::WorkersRegistered
            }
            Action::Publish => {
                let gateway = self.gateway.as_ref();
                let gateway = gateway.ok_or_else(|| "the gateway is not open".to_owned())?;
                super::publish::publish(&self.folder, self.plan()?, gateway)
                    .map_err(|error| error.to_string())?;
                Event::Published
            }
            Action::Leave(member) => return Ok(Outcome::Left(member, self.leave(member).await)),
        };
        Ok(Outcome::Event(event))
    }

    pub(super) fn plan(&self) -> Result<&Plan, String> {
        self.plan
            .as_deref()
            .ok_or_else(|| "there is no plan yet".to_owned())
    }

    fn site(&self, member: MemberId) -> Result<&SiteClient, String> {
        let plan = self.plan()?;
        let site = plan.sites.iter().find(|site| site.member == member);
        site.and_then(|site| self.sites.get(&site.site))
            .ok_or_else(|| format!("no site is member {member:?}"))
    }

    async fn describe_site(&self, name: SiteName) -> Result<Outcome, Trouble> {
        let site = self
            .inventory
            .get(&name)
            .ok_or_else(|| format!("no site is called {name}"))?;
        let connected = SiteClient::connect(
            &self.state,
            &self.inbound,
            name.clone(),
            site,
            &self.identity,
        );
        let client = connected.await?;
        let description = client.describe().await?;
        Ok(Outcome::Site(
            Box::new(client),
            Event::Described(name, Box::new(description)),
        ))
    }

    async fn start_node(&self) -> Result<Outcome, String> {
        let plan = self.plan()?;
        let folder = self.folder.node();
        let spec = NodeSpec {
            federation: plan.id,
            name: plan.name.clone(),
            member: MemberId::OPERATOR,
            members: plan.members(),
            lease: None,
            read_only: self.readable.to_vec(),
            reach: Vec::new(),
            quotas: None,
        };
        let (ready, supervision) = node::spawn(&self.program, &folder, &spec)
            .await
            .map_err(|error| error.to_string())?;
        python::install_package(&folder.package()).map_err(|error| error.to_string())?;
        // It may be behind a NAT: then sites learn where it is from its first handshake, too.
        let own = ready.addresses.iter();
        let peer = Peer {
            member: MemberId::OPERATOR,
            public_key: ready.public_key,
            endpoint: None,
            candidates: own
                .map(|address| SocketAddr::new(*address, ready.udp_port))
                .collect(),
            fingerprint: ready.fingerprint,
        };
        let event = Event::Prepared(MemberId::OPERATOR, peer);
        Ok(Outcome::Node(Box::new(supervision), event))
    }

    async fn start_scheduler(&self) -> Result<Outcome, String> {
        let plan = self.plan()?;
        let folder = self.folder.node();
        let node = NodeClient::new(&folder);
        let text = |error: node::NodeError| error.to_string();
        let process = scheduler::process(plan, &self.interpreter, &folder);
        let events = node.watch().await.map_err(text)?;
        node.run(process).await.map_err(text)?;
        let address = scheduler::address(plan);
        tokio::select! {
            listening = async {
                node.await_port(address).await?;
                node.await_port(scheduler::DASHBOARD).await
            } => listening.map_err(text)?,
            lost = self.loss_of_scheduler(events) => return Err(lost),
        }
        let gateway = node
            .open_gateway(self.folder.path(), address, scheduler::DASHBOARD)
            .await
            .map_err(text)?;
        Ok(Outcome::Gateway(gateway, Event::SchedulerStarted))
    }

    pub(super) async fn connect(&self, member: MemberId, peers: Vec<Peer>) -> Result<(), String> {
        if member == MemberId::OPERATOR {
            let node = NodeClient::new(&self.folder.node());
            return node.connect(peers).await.map_err(|error| error.to_string());
        }
        let id = self.plan()?.id;
        self.site(member)?
            .peers(id, peers)
            .await
            .map_err(|error| error.to_string())
    }

    /// How a member's mesh stands.
    pub(super) async fn mesh(&self, member: MemberId) -> Result<MeshReport, String> {
        if member == MemberId::OPERATOR {
            let node = NodeClient::new(&self.folder.node());
            let report = node.report().await.map_err(|error| error.to_string())?;
            return Ok(report.mesh);
        }
        let id = self.plan()?.id;
        self.site(member)?
            .probe(id)
            .await
            .map_err(|error| error.to_string())
    }

    async fn start_workers(&self, member: MemberId) -> Result<Vec<String>, String> {
        let plan = self.plan()?;
        let site = plan.sites.iter().find(|site| site.member == member);
        let site = site.ok_or_else(|| format!("no site is member {member:?}"))?;
        let scheduler = format!("tcp://{}", scheduler::address(plan));
        let pools = plan
            .pools()
            .map(|(_, pool)| pool.offer.name.to_string())
            .collect();
        let started = self
            .site(member)?
            .start(plan.id, site, scheduler, pools)
            .await;
        started.map_err(|error| error.to_string())
    }

    /// Has the scheduler give up the workers of a site that is about to end them, or has.
    pub(super) async fn give_up(&self, site: &SiteName) -> Result<(), String> {
        let (Some(gateway), Some(plan)) = (&self.gateway, &self.plan) else {
            // There is no scheduler yet that could wait for them.
            return Ok(());
        };
        let pools: Vec<&PoolName> = plan
            .pools()
            .filter(|(plan, _)| plan.site == *site)
            .map(|(_, pool)| &pool.offer.name)
            .collect();
        let removed = scheduler::remove_workers(gateway, &pools).await;
        removed.map_err(|error| error.to_string())
    }

    /// Ends a member's part, unless it cannot be told.
    async fn leave(&self, member: MemberId) -> Option<Untold> {
        if member == MemberId::OPERATOR {
            let node = NodeClient::new(&self.folder.node());
            // One that is gone needs no telling; its process is waited for elsewhere, and killed.
            let _ = tokio::time::timeout(2 * Leases::GRACE, node.stop()).await;
            return None;
        }
        let (plan, site) = match (self.plan(), self.site(member)) {
            (Ok(plan), Ok(site)) => (plan, site),
            (Err(problem), _) | (_, Err(problem)) => {
                warn!(problem, "who has begun nothing is to leave");
                return None;
            }
        };
        let error = site.leave(plan.id).await.err()?;
        let lease = plan.leases.federation();
        Some(Untold::now(site.name.clone(), error.to_string(), lease))
    }
}
