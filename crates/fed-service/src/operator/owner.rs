//! The owner of one federation: takes outcomes, questions and signals, and moves the life cycle.

use std::sync::Arc;
use std::time::Duration;

use fed_core::{
    Action, Agreement, Event, Failure, FailureKind, FederationId, Leases, Lifecycle, MemberId,
    Phase, Reason, Request, SiteName,
};
use fed_rpc::v1;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use super::client::{self, Question};
use super::driver::{Driver, Outcome, describe};
use super::loss::{self, with_last_lines};
use super::rendezvous;
use super::renewals::Renewals;
use super::report::{Progress, Status, StepState, Untold};
use super::site::{SiteClient, SiteError};
use super::standing;
use super::up::UpError;
use crate::deadline::until;
use crate::node::{Death, NodeClient, Supervision};

/// Questions that may wait for the owner.
const QUEUE: usize = 64;
/// How long after a lost connection to a site its events are asked for again.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// Progress that a slow front end may lag behind.
const PROGRESS: usize = 1024;

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next of them.
    async fn any(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }
}

pub(super) struct Operator {
    request: Request,
    lifecycle: Lifecycle,
    driver: Driver,
    front_end: mpsc::UnboundedSender<Progress>,
    watchers: broadcast::Sender<Progress>,
    node: Option<Box<Supervision>>,
    /// Tells members of one another, while it is kept.
    rendezvous: Option<AbortOnDropHandle<()>>,
    /// Asks the node how it stands, while it is kept.
    asking_node: Option<AbortOnDropHandle<()>>,
    renewals: Renewals,
    /// Sites that could not be told that it has ended.
    untold: Vec<Untold>,
    /// The signal that has ended it, if one has.
    signal: Option<SignalKind>,
    began: Instant,
    up_seconds: Option<f64>,
}

impl Operator {
    pub(super) fn new(
        request: Request,
        driver: Driver,
        front_end: mpsc::UnboundedSender<Progress>,
    ) -> Self {
        let (lifecycle, actions) = Lifecycle::begin(request.clone());
        let (watchers, _) = broadcast::channel(PROGRESS);
        let this = Self {
            renewals: Renewals::new(request.leases),
            request,
            lifecycle,
            driver,
            front_end,
            watchers,
            node: None,
            rendezvous: None,
            asking_node: None,
            untold: Vec::new(),
            signal: None,
            began: Instant::now(),
            up_seconds: None,
        };
        this.begin(actions);
        this
    }

    pub(super) async fn live(
        mut self,
        mut results: mpsc::Receiver<Outcome>,
    ) -> Result<(), UpError> {
        let mut signals = Signals::new()?;
        let listener = crate::control::bind(&self.driver.folder.socket())?;
        let (asking, mut questions) = mpsc::channel(QUEUE);
        let server = tokio::spawn(client::listen(listener, asking, self.watchers.clone()));
        let mut renewal = self.renewal();
        while self.lifecycle.phase() != Phase::Ended {
            tokio::select! {
                Some(outcome) = results.recv() => self.take(outcome),
                Some(question) = questions.recv() => self.answer(question),
                signal = signals.any() => self.interrupt(signal)?,
                () = self.front_end.closed(), if self.lifecycle.phase() < Phase::Ending => {
                    self.handle(Event::End);
                }
                death = loss::of_node(&mut self.node), if self.lifecycle.phase() < Phase::Ending => {
                    self.lose_node(death);
                }
                _ = renewal.tick() => self.renew(),
                () = until(self.renewals.deadline()), if self.lifecycle.phase() < Phase::Ending => {
                    self.give_up_lapsing();
                }
            }
        }
        if let Some(node) = &mut self.node {
            node.ended(Leases::GRACE).await;
        }
        let ended = self.verdict();
        if !matches!(ended, Ok(()) | Err(UpError::Untold { .. })) {
            for untold in &self.untold {
                let message = untold.to_string();
                let _ = self.front_end.send(Progress::Warning { message });
            }
        }
        let untold = std::mem::take(&mut self.untold);
        self.tell(Progress::Ended { untold });
        server.abort();
        ended
    }

    /// How it ended: of several things that went wrong, the first.
    fn verdict(&self) -> Result<(), UpError> {
        match (self.lifecycle.reason(), self.signal) {
            (Some(Reason::Failed(failure)), _) => Err(UpError::Failed(failure.clone())),
            (_, Some(signal)) if self.up_seconds.is_none() => Err(UpError::Interrupted {
                signal: signal.as_raw_value(),
            }),
            (Some(Reason::Asked) | None, _) if self.untold.is_empty() => Ok(()),
            (Some(Reason::Asked) | None, _) => Err(UpError::Untold {
                name: self.request.name.clone(),
                untold: self.untold.clone(),
            }),
        }
    }

    /// Ends the federation; whoever insists does not wait for it.
    fn interrupt(&mut self, signal: SignalKind) -> Result<(), UpError> {
        if self.signal.replace(signal).is_some() {
            return Err(UpError::Abandoned {
                name: self.request.name.clone(),
                signal: signal.as_raw_value(),
                lease_seconds: self.request.leases.federation().as_secs(),
            });
        }
        self.handle(Event::End);
        Ok(())
    }

    /// The death of the operator's node ends the federation, and is told before what it brings about.
    fn lose_node(&mut self, death: Death) {
        self.handle(Event::Failed(loss::node_died(death)));
        self.driver.node_died.cancel();
    }

    /// Has the federation fail when the node does not answer for as long as a lease.
    fn ask_node(&mut self) {
        let node = NodeClient::new(&self.driver.folder.node());
        let (outcomes, leases) = (self.driver.outcomes.clone(), self.request.leases);
        let asking = tokio::spawn(async move {
            let failure = loss::of_answers(node, leases.renewal(), leases.federation()).await;
            // Fails only when the operator has ended.
            let _ = outcomes.send(Outcome::Event(Event::Failed(failure))).await;
        });
        self.asking_node = Some(AbortOnDropHandle::new(asking));
    }

    fn renewal(&self) -> Interval {
        let period = self.request.leases.renewal();
        let mut interval = tokio::time::interval_at(Instant::now() + period, period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    /// Shows progress to the front end and to watchers, neither of which need be there.
    fn tell(&self, progress: Progress) {
        let _ = self.watchers.send(progress.clone());
        let _ = self.front_end.send(progress);
    }

    fn begin(&self, actions: Vec<Action>) {
        for action in actions {
            self.step(&action, StepState::Begun);
            self.driver.start(action);
        }
    }

    fn step(&self, action: &Action, state: StepState) {
        let (member, step) = describe(action, self.lifecycle.plan());
        self.tell(Progress::Step {
            member,
            step,
            state,
        });
    }

    fn take(&mut self, outcome: Outcome) {
        let event = match outcome {
            Outcome::Event(event) => event,
            Outcome::Site(client, event) => {
                self.driver.sites.insert(client.name.clone(), *client);
                event
            }
            Outcome::Node(supervision, event) => {
                self.node = Some(supervision);
                self.ask_node();
                event
            }
            Outcome::Gateway(gateway, event) => {
                self.driver.gateway = Some(gateway);
                self.watch_scheduler();
                event
            }
            Outcome::Left(member, None) => Event::Left(member),
            Outcome::Left(member, Some(untold)) => {
                self.untold.push(untold);
                self.step(&Action::Leave(member), StepState::Failed);
                return self.handle(Event::Left(member));
            }
            Outcome::Renewed(site, asked) => {
                if self.renewals.renewed(&site, asked) {
                    let message = format!("{site}: its lease is renewed again");
                    self.tell(Progress::Warning { message });
                }
                return;
            }
            Outcome::SiteEnded(site, reason) => {
                let phase = self.lifecycle.phase();
                if phase >= Phase::Running {
                    if self.renewals.ended(&site) && phase < Phase::Ending {
                        let message = format!("{site}: its part has ended: {reason}");
                        self.tell(Progress::Warning { message });
                        self.give_up(site);
                    }
                    return;
                }
                // On the way up there is nothing to wait for without it.
                Event::Failed(Failure {
                    member: Some(site.to_string()),
                    kind: FailureKind::Other,
                    message: format!("its part has ended: {reason}"),
                })
            }
        };
        if let Some(action) = answered(&event) {
            self.step(&action, StepState::Done);
        }
        // From its start, so that a worker that dies at once is not missed.
        if let Event::Prepared(member, _) = &event {
            self.watch_site(*member);
        }
        // The last one, so that nobody is told less afterwards.
        if event == Event::Connected(MemberId::OPERATOR) {
            let peers = self.lifecycle.peers().values().cloned().collect();
            let keeping = tokio::spawn(rendezvous::keep(self.driver.clone(), peers));
            self.rendezvous = Some(AbortOnDropHandle::new(keeping));
        }
        self.handle(event);
    }

    fn handle(&mut self, event: Event) {
        let before = self.lifecycle.phase();
        if let Event::Failed(failure) = &event
            && before >= Phase::Ending
        {
            debug!(%failure, "while ending");
        }
        if let Event::WorkerLost(failure) = &event
            && before == Phase::Running
        {
            self.tell(Progress::Warning {
                message: failure.to_string(),
            });
        }
        let registered = matches!(event, Event::WorkersRegistered);
        let actions = self.lifecycle.handle(event);
        if self.driver.plan.is_none()
            && let Some(plan) = self.lifecycle.plan()
        {
            self.driver.plan = Some(Arc::new(plan.clone()));
            if plan.versions.agreement() != Agreement::Same {
                self.tell(Progress::Versions {
                    table: plan.versions.clone(),
                });
            }
        }
        if registered {
            self.up_seconds = Some(self.began.elapsed().as_secs_f64());
        }
        let phase = self.lifecycle.phase();
        if phase != before {
            self.entered(phase);
        }
        if before < Phase::Ending && phase >= Phase::Ending {
            // Sites that have left are not to be asked any more.
            self.rendezvous = None;
            self.asking_node = None;
            let failure = match self.lifecycle.reason() {
                Some(Reason::Failed(failure)) => Some(failure.clone()),
                Some(Reason::Asked) | None => None,
            };
            self.tell(Progress::Ending { failure });
        }
        self.begin(actions);
    }

    fn entered(&self, phase: Phase) {
        info!(?phase, "federation");
        match phase {
            Phase::Running => {
                let (status, progress) = (self.status(), self.clone_for_progress());
                tokio::spawn(async move {
                    progress.tell(Progress::Running {
                        status: Box::new(status.await),
                    });
                });
            }
            Phase::Describing
            | Phase::Preparing
            | Phase::Connecting
            | Phase::Starting
            | Phase::Publishing
            | Phase::Ending
            | Phase::Ended => {}
        }
    }

    fn clone_for_progress(&self) -> Teller {
        Teller {
            watchers: self.watchers.clone(),
            front_end: self.front_end.clone(),
        }
    }

    /// The scheduler's death ends the federation: nothing works without it.
    fn watch_scheduler(&self) {
        let driver = self.driver.clone();
        tokio::spawn(async move {
            let Ok(events) = NodeClient::new(&driver.folder.node()).watch().await else {
                return;
            };
            let failure = loss::failure(driver.loss_of_scheduler(events).await);
            // Fails only when the operator has ended.
            let _ = driver
                .outcomes
                .send(Outcome::Event(Event::Failed(failure)))
                .await;
        });
    }

    /// A worker that dies on the way up ends the federation; later, it is a warning.
    fn watch_site(&mut self, member: MemberId) {
        let Some(site) = self.lifecycle.plan().and_then(|plan| {
            plan.sites
                .iter()
                .find(|site| site.member == member)
                .map(|site| site.site.clone())
        }) else {
            return;
        };
        self.renewals.began(site.clone(), Instant::now());
        if let Some(client) = self.driver.sites.get(&site).cloned() {
            let (id, outcomes) = (self.request.id, self.driver.outcomes.clone());
            tokio::spawn(watch(client, id, outcomes));
        }
    }

    /// Extends the lease at every site that has one.
    fn renew(&self) {
        if self.lifecycle.phase() >= Phase::Ending {
            return;
        }
        for site in self.renewals.sites() {
            let Some(client) = self.driver.sites.get(site).cloned() else {
                continue;
            };
            let (teller, id) = (self.clone_for_progress(), self.request.id);
            let (outcomes, leases) = (self.driver.outcomes.clone(), self.request.leases);
            tokio::spawn(async move {
                let asked = Instant::now();
                let renewed = client.renew(id, leases.renewal()).await;
                let end = renewed.as_ref().err().and_then(SiteError::end);
                let outcome = match (&renewed, end) {
                    (Ok(()), _) => Outcome::Renewed(client.name, asked),
                    (Err(_), Some(reason)) => Outcome::SiteEnded(client.name, reason.to_owned()),
                    (Err(error), None) => {
                        let lease = leases.federation().as_secs();
                        let message = format!(
                            "{}: its lease could not be renewed ({error}); it ends the federation \
                             {lease} s after the last renewal",
                            client.name
                        );
                        return teller.tell(Progress::Warning { message });
                    }
                };
                // Fails only when the operator has ended.
                let _ = outcomes.send(outcome).await;
            });
        }
    }

    /// The scheduler is to wait for nothing of a site that is about to end it, unheard.
    fn give_up_lapsing(&mut self) {
        for site in self.renewals.take_lapsing(Instant::now()) {
            let message = format!(
                "{site}: its lease was last renewed {} s ago, so its workers are no longer counted on",
                self.renewals.patience().as_secs()
            );
            self.tell(Progress::Warning { message });
            self.give_up(site);
        }
    }

    fn give_up(&self, site: SiteName) {
        let (driver, teller) = (self.driver.clone(), self.clone_for_progress());
        tokio::spawn(async move {
            if let Err(problem) = driver.give_up(&site).await {
                let message = format!(
                    "{site}: its workers could not be given up: {problem}; `fed logs` may say why"
                );
                teller.tell(Progress::Warning { message });
            }
        });
    }

    fn answer(&mut self, question: Question) {
        match question {
            Question::Status(answer) => {
                let status = self.status();
                tokio::spawn(async move {
                    // The asker may have left.
                    let _ = answer.send(status.await);
                });
            }
            Question::Logs(tail, answer) => {
                let logs = client::gather_logs(self.driver.clone(), self.request.id, tail);
                tokio::spawn(async move {
                    let _ = answer.send(logs.await);
                });
            }
            Question::Down => self.handle(Event::End),
        }
    }

    /// How the federation stands, asking every member.
    fn status(&self) -> impl Future<Output = Status> + Send + 'static {
        let status = Status {
            name: self.request.name.clone(),
            federation: self.request.id,
            phase: self.lifecycle.phase(),
            up_seconds: self.up_seconds,
            lease_seconds: self.request.leases.federation().as_secs(),
            gateway: self.driver.gateway.clone(),
            members: Vec::new(),
        };
        standing::ask(self.driver.clone(), status)
    }
}

/// The action that an event answers.
fn answered(event: &Event) -> Option<Action> {
    Some(match event {
        Event::Described(site, _) => Action::Describe(site.clone()),
        Event::Prepared(member, _) => Action::Prepare(*member),
        Event::SchedulerStarted => Action::StartScheduler,
        Event::Connected(member) => Action::Connect(*member, Vec::new()),
        Event::Reached(member) => Action::Probe(*member),
        Event::WorkersStarted(member, _) => Action::StartWorkers(*member),
        Event::WorkersRegistered => Action::AwaitWorkers(Vec::new()),
        Event::Published => Action::Publish,
        Event::Left(member) => Action::Leave(*member),
        Event::Failed(_) | Event::WorkerLost(_) | Event::End => return None,
    })
}

/// Shows progress from other tasks.
#[derive(Clone)]
struct Teller {
    watchers: broadcast::Sender<Progress>,
    front_end: mpsc::UnboundedSender<Progress>,
}

impl Teller {
    fn tell(&self, progress: Progress) {
        // Neither need be there.
        let _ = self.watchers.send(progress.clone());
        let _ = self.front_end.send(progress);
    }
}

/// Passes on what a site tells of its part, until it has ended. Its agent may be restarted
/// meanwhile.
async fn watch(client: SiteClient, id: FederationId, outcomes: mpsc::Sender<Outcome>) {
    while !outcomes.is_closed() {
        let watching = client.watch(id).await;
        if let Some(reason) = watching.as_ref().err().and_then(SiteError::end) {
            let ended = Outcome::SiteEnded(client.name.clone(), reason.to_owned());
            // Fails only when the operator has ended.
            let _ = outcomes.send(ended).await;
            return;
        }
        if let Ok(mut events) = watching {
            while let Ok(Some(event)) = events.message().await {
                let Some(outcome) = outcome_of(&client.name, event) else {
                    continue;
                };
                let last = matches!(outcome, Outcome::SiteEnded(..));
                if outcomes.send(outcome).await.is_err() || last {
                    return;
                }
            }
        }
        tokio::time::sleep(WATCH_AGAIN).await;
    }
}

fn outcome_of(site: &SiteName, event: v1::Event) -> Option<Outcome> {
    match event.what? {
        v1::event::What::WorkerExited(exit) => {
            let said = format!("worker {} ended by itself ({})", exit.worker, exit.status);
            let message = with_last_lines(said, &exit.last_lines);
            let member = Some(site.to_string());
            Some(Outcome::Event(Event::WorkerLost(Failure {
                member,
                kind: FailureKind::Other,
                message,
            })))
        }
        v1::event::What::FederationEnded(ended) => {
            Some(Outcome::SiteEnded(site.clone(), ended.reason))
        }
    }
}
