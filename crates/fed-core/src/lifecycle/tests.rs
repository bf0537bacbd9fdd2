use proptest::prelude::*;

use super::*;
use crate::plan::tests::{description, request};

/// Carries out actions in memory, in any order, and fails one of them if told to.
struct World {
    lifecycle: Lifecycle,
    pending: Vec<Action>,
    log: Vec<Action>,
}

impl World {
    fn new(sites: &[&str]) -> Self {
        let (lifecycle, pending) = Lifecycle::begin(request(sites));
        Self {
            lifecycle,
            log: pending.clone(),
            pending,
        }
    }

    fn take(&mut self, event: Event) {
        let actions = self.lifecycle.handle(event);
        self.log.extend(actions.iter().cloned());
        self.pending.extend(actions);
    }

    fn name(&self, member: MemberId) -> Option<String> {
        let members = self.lifecycle.plan()?.members();
        members
            .into_iter()
            .find(|other| other.id == member)
            .map(|member| member.name)
    }

    fn answer(&mut self, action: Action) -> Event {
        match action {
            Action::Describe(site) => {
                let description = description(site.as_str(), &[site.as_str()]);
                Event::Described(site, Box::new(description))
            }
            Action::Prepare(member) => Event::Prepared(
                member,
                Peer {
                    member,
                    public_key: format!("key{}", member.number()),
                    endpoint: None,
                    candidates: Vec::new(),
                    fingerprint: String::new(),
                },
            ),
            Action::StartScheduler => Event::SchedulerStarted,
            Action::Connect(member, _) => Event::Connected(member),
            Action::Probe(member) => Event::Reached(member),
            Action::StartWorkers(member) => {
                Event::WorkersStarted(member, vec![format!("w-{}", member.number())])
            }
            Action::AwaitWorkers(_) => Event::WorkersRegistered,
            Action::Publish => Event::Published,
            Action::Leave(member) => Event::Left(member),
        }
    }

    fn fail(&mut self, action: &Action) -> Event {
        let member = match action {
            Action::Describe(site) => Some(site.to_string()),
            Action::Prepare(member)
            | Action::Connect(member, _)
            | Action::Probe(member)
            | Action::StartWorkers(member)
            | Action::Leave(member) => self.name(*member),
            Action::StartScheduler | Action::AwaitWorkers(_) | Action::Publish => None,
        };
        Event::Failed(Failure {
            member,
            kind: FailureKind::Other,
            message: "broke".into(),
        })
    }
}

#[test]
fn runs_and_ends() {
    let mut world = World::new(&["ecmwf", "eumetsat"]);
    while let Some(action) = world.pending.pop() {
        let event = world.answer(action);
        world.take(event);
    }
    assert_eq!(world.lifecycle.phase(), Phase::Running);
    let connect = world
        .log
        .iter()
        .filter(|action| matches!(action, Action::Connect(_, peers) if peers.len() == 2));
    assert_eq!(connect.count(), 3);
    world.take(Event::End);
    while let Some(action) = world.pending.pop() {
        let event = world.answer(action);
        world.take(event);
    }
    assert_eq!(world.lifecycle.phase(), Phase::Ended);
    assert_eq!(world.lifecycle.reason(), Some(&Reason::Asked));
}

#[test]
fn workers_start_beside_the_scheduler_and_register_once_it_listens() {
    let mut world = World::new(&["ecmwf", "eumetsat"]);
    while let Some(action) = world.pending.pop() {
        if action == Action::StartScheduler {
            continue;
        }
        let event = world.answer(action);
        world.take(event);
    }
    assert_eq!(world.lifecycle.phase(), Phase::Starting);
    let started = |action: &&Action| matches!(action, Action::StartWorkers(_));
    assert_eq!(world.log.iter().filter(started).count(), 2);
    let awaited = |action: &Action| matches!(action, Action::AwaitWorkers(_));
    assert!(!world.log.iter().any(awaited));
    world.take(Event::SchedulerStarted);
    assert_eq!(
        world.pending,
        [Action::AwaitWorkers(vec!["w-1".into(), "w-2".into()])]
    );
}

#[test]
fn a_version_that_stops_starts_nothing() {
    let mut world = World::new(&["ecmwf"]);
    let mut wrong = description("ecmwf", &["ecmwf"]);
    wrong.python.version = "3.9.2".into();
    world.take(Event::Described("ecmwf".parse().unwrap(), Box::new(wrong)));
    assert_eq!(world.lifecycle.phase(), Phase::Ended);
    assert!(
        world
            .log
            .iter()
            .all(|action| matches!(action, Action::Describe(_)))
    );
}

proptest! {
    /// Whatever order answers come in, and whichever action fails or is interrupted: a started
    /// node is ended exactly once, never before its start was answered, and the end is reached.
    #[test]
    fn whatever_is_started_is_ended(
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 60),
        trouble in 0usize..40,
        interrupt: bool,
        sites in 1usize..4,
    ) {
        let names = ["a", "b", "c"];
        let mut world = World::new(&names[..sites]);
        let mut answered = Vec::new();
        for (step, index) in order.iter().enumerate() {
            if step == trouble && interrupt {
                world.take(Event::End);
            }
            if world.pending.is_empty() {
                world.take(Event::End);
                if world.pending.is_empty() { break; }
            }
            let action = world.pending.swap_remove(index.index(world.pending.len()));
            let event = if step == trouble && !interrupt && !matches!(action, Action::Leave(_)) {
                world.fail(&action)
            } else {
                world.answer(action.clone())
            };
            if let Action::Leave(member) = action {
                prop_assert!(answered.contains(&Action::Prepare(member)));
            }
            answered.push(action);
            world.take(event);
        }
        prop_assert_eq!(world.lifecycle.phase(), Phase::Ended);
        let count = |wanted: &Action| world.log.iter().filter(|action| *action == wanted).count();
        for number in 0..=3 {
            let member = MemberId::site(number);
            prop_assert_eq!(count(&Action::Prepare(member)), count(&Action::Leave(member)));
        }
    }
}
