//! A site without its IO: ledger, crews and queues of calls as the agent has them, nodes that are
//! sets of names, and beside them what the numbers should be.

use std::collections::{BTreeSet, VecDeque};

use fed_core::{MemberId, SiteName};
use proptest::prelude::*;

use super::super::*;
use super::{id, workers};
use crate::agent::federation::{Crew, Exit};
use crate::agent::policy::tests::{offer, pool};

const FEDERATIONS: usize = 4;
const POOLS: [&str; 2] = ["hot", "cold"];

/// What happens next. Federations, pools and workers are chosen modulo how many there are.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A call for a number of workers is admitted, or is not, and waits for the federation's task.
    Ask(usize, usize, u32),
    /// A call is admitted, and its caller gives up before it has reached the task.
    GiveUp(usize, usize, u32),
    /// A call to stop a worker, or all, waits.
    Stop(usize, Option<usize>),
    /// The task does what the oldest call wants.
    Turn(usize, Fate),
    /// The task replaces what was lost.
    Replace(usize, usize),
    /// The scheduler retires a worker.
    Retire(usize, usize),
    /// A worker dies.
    Crash(usize, usize),
    /// A worker that was told to end does.
    End(usize, usize),
    /// The agent is killed, some workers end meanwhile, and another agent adopts the rest.
    Restart(usize),
    /// The federation ends, and another begins.
    Renew(usize),
    /// All calls are answered, all orders obeyed.
    Settle,
}

/// What becomes of the orders that a call gives the node, of which so many are obeyed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// All are.
    Obeys,
    /// The next is refused.
    Refuses(usize),
    /// The next is not answered; one to start a worker was obeyed all the same.
    IsSilent(usize),
    /// The agent is killed then.
    Dies(usize),
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let of = 0..FEDERATIONS;
    let ask = (of.clone(), 0..2usize, 0..8u32);
    let worker = (of.clone(), 0..8usize);
    prop_oneof![
        4 => ask.clone().prop_map(|(of, pool, size)| Step::Ask(of, pool, size)),
        1 => ask.prop_map(|(of, pool, size)| Step::GiveUp(of, pool, size)),
        1 => (of.clone(), prop::option::weighted(0.8, 0..8usize))
            .prop_map(|(of, which)| Step::Stop(of, which)),
        6 => (of.clone(), fate()).prop_map(|(of, fate)| Step::Turn(of, fate)),
        1 => (of.clone(), 0..2usize).prop_map(|(of, pool)| Step::Replace(of, pool)),
        2 => worker.clone().prop_map(|(of, which)| Step::Retire(of, which)),
        2 => worker.clone().prop_map(|(of, which)| Step::Crash(of, which)),
        3 => worker.prop_map(|(of, which)| Step::End(of, which)),
        1 => (0..4usize).prop_map(Step::Restart),
        1 => of.prop_map(Step::Renew),
        2 => Just(Step::Settle),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        5 => Just(Fate::Obeys),
        1 => (0..4usize).prop_map(Fate::Refuses),
        1 => (0..4usize).prop_map(Fate::IsSilent),
        1 => (0..4usize).prop_map(Fate::Dies),
    ]
}

enum Queued {
    Scale(PoolName, u32, Ticket),
    Stop(Option<usize>),
}

struct Federation {
    id: FederationId,
    operator: &'static str,
    /// As the task has it.
    crew: Crew,
    /// As it was written down last.
    record: Crew,
    queue: VecDeque<Queued>,
    /// The processes that run, and which of them were told to end.
    running: BTreeSet<String>,
    told: BTreeSet<String>,
    /// Those of them whose start was not answered.
    doubtful: BTreeSet<String>,
    /// The model: how many there should be.
    wanted: BTreeMap<PoolName, u32>,
}

pub(super) struct World {
    most: u32,
    ledger: Ledger,
    federations: Vec<Federation>,
    begun: u8,
}

impl World {
    pub(super) fn new(most: u32) -> Self {
        let mut world = Self {
            most,
            ledger: Ledger::default(),
            federations: Vec::new(),
            begun: 0,
        };
        for number in 0..FEDERATIONS {
            let federation = world.begin(["a", "a", "a", "b"][number]);
            world.federations.push(federation);
        }
        world
    }

    fn begin(&mut self, operator: &'static str) -> Federation {
        self.begun += 1;
        let id = id(self.begun);
        let offers = POOLS.map(offer).to_vec();
        self.ledger.open(id, operator, offers, Load::new());
        Federation {
            id,
            operator,
            crew: Crew::default(),
            record: Crew::default(),
            queue: VecDeque::new(),
            running: BTreeSet::new(),
            told: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            wanted: BTreeMap::new(),
        }
    }

    fn ask(&mut self, of: usize, pool: &PoolName, size: u32) -> Option<Ticket> {
        let quiet = self.federations.iter().all(|each| each.queue.is_empty());
        let federation = &self.federations[of];
        let site: SiteName = "ecmwf".parse().unwrap();
        let limits = workers(self.most);
        let allowance = Allowance {
            site: &site,
            operator: federation.operator,
            limits: &limits,
        };
        let asked = self
            .ledger
            .reserve(federation.id, &[(pool.clone(), size)], &allowance);
        if quiet {
            // Nothing is under way: the model knows whether there is room.
            let own = federation.used(pool);
            let before = self.used_by(federation.operator);
            let size = size.saturating_sub(federation.doubtful(pool));
            let grows = u64::from(size.saturating_sub(own));
            let fits = grows == 0 || before + grows <= u64::from(self.most);
            assert_eq!(asked.is_ok(), fits, "{asked:?}: {before} and {grows}");
        }
        asked.ok().flatten()
    }

    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Ask(of, which, size) => {
                let pool = pool(POOLS[which]);
                if let Some(ticket) = self.ask(of, &pool, size) {
                    let call = Queued::Scale(pool, size, ticket);
                    self.federations[of].queue.push_back(call);
                }
            }
            Step::GiveUp(of, which, size) => {
                if let Some(ticket) = self.ask(of, &pool(POOLS[which]), size) {
                    self.ledger.release(self.federations[of].id, ticket);
                }
            }
            Step::Stop(of, which) => self.federations[of].queue.push_back(Queued::Stop(which)),
            Step::Turn(of, fate) => self.turn(of, fate),
            Step::Replace(of, which) => {
                self.federations[of].replace(&pool(POOLS[which]));
                self.report(of);
            }
            Step::Retire(of, which) => self.exits(of, which, true),
            Step::Crash(of, which) => self.exits(of, which, false),
            Step::End(of, which) => {
                self.federations[of].obey(which);
                self.report(of);
            }
            Step::Restart(ended) => self.restart(ended),
            Step::Renew(of) => {
                let operator = self.federations[of].operator;
                self.ledger.close(self.federations[of].id);
                self.federations[of] = self.begin(operator);
            }
            Step::Settle => {
                for of in 0..FEDERATIONS {
                    while !self.federations[of].queue.is_empty() {
                        self.turn(of, Fate::Obeys);
                    }
                    while !self.federations[of].told.is_empty() {
                        self.federations[of].obey(0);
                    }
                    self.report(of);
                }
            }
        }
    }

    fn report(&mut self, of: usize) {
        let federation = &self.federations[of];
        self.ledger.report(federation.id, federation.crew.load());
    }

    fn turn(&mut self, of: usize, fate: Fate) {
        let federation = &mut self.federations[of];
        let ticket = match federation.queue.pop_front() {
            None => return,
            Some(Queued::Scale(_, _, ticket))
                if self.ledger.check(federation.id, ticket).is_err() =>
            {
                self.ledger.release(federation.id, ticket);
                return;
            }
            Some(Queued::Scale(pool, size, ticket)) => {
                federation.scale(&pool, size, fate);
                Some(ticket)
            }
            Some(Queued::Stop(which)) => {
                federation.stop(which, fate);
                None
            }
        };
        if matches!(fate, Fate::Dies(_)) {
            self.restart(0);
            return;
        }
        self.report(of);
        if let Some(ticket) = ticket {
            self.ledger.release(self.federations[of].id, ticket);
        }
    }

    fn exits(&mut self, of: usize, which: usize, success: bool) {
        self.federations[of].exits(which, success);
        self.report(of);
    }

    /// The calls under way are lost with the agent, and so is all that was not written down.
    fn restart(&mut self, ended: usize) {
        self.ledger = Ledger::default();
        for federation in &mut self.federations {
            let ends = federation.running.iter().take(ended).cloned();
            for name in ends.collect::<Vec<_>>() {
                federation.running.remove(&name);
                federation.told.remove(&name);
            }
            let text = serde_json::to_string(&federation.record).unwrap();
            federation.crew = serde_json::from_str(&text).unwrap();
            federation.queue.clear();
            let (id, operator) = (federation.id, federation.operator);
            let offers = POOLS.map(offer).to_vec();
            self.ledger
                .open(id, operator, offers, federation.crew.load());
            let running: Vec<String> = federation.running.iter().cloned().collect();
            federation.crew.adopt(&running);
            federation.told.extend(federation.crew.ending());
            self.ledger.report(id, federation.crew.load());
        }
    }

    fn used_by(&self, operator: &str) -> u64 {
        let own = self.federations.iter();
        own.filter(|federation| federation.operator == operator)
            .flat_map(|federation| POOLS.map(|name| federation.used_with_ending(&pool(name))))
            .sum()
    }

    /// How many workers of a federation run.
    pub(super) fn running(&self, of: usize) -> usize {
        self.federations[of].running.len()
    }

    pub(super) fn check(&self) -> Result<(), TestCaseError> {
        for operator in ["a", "b"] {
            let own = || {
                let all = self.federations.iter();
                all.filter(|federation| federation.operator == operator)
            };
            let running: usize = own().map(|federation| federation.running.len()).sum();
            prop_assert!(running <= self.most as usize, "{running} run");
            let quiet = own().all(|federation| federation.queue.is_empty());
            let usage = self.ledger.usage(operator, None).workers;
            if quiet {
                prop_assert_eq!(usage, self.used_by(operator));
            }
            prop_assert!(usage >= running as u64);
        }
        for federation in &self.federations {
            let known: BTreeSet<String> = federation.crew.names().into_iter().collect();
            let ending: BTreeSet<String> = federation.crew.ending().into_iter().collect();
            prop_assert!(known.is_disjoint(&ending));
            prop_assert_eq!(&(&known | &ending), &federation.running);
            prop_assert_eq!(&ending, &federation.told);
        }
        Ok(())
    }
}

impl Federation {
    fn of_pool<'a>(&'a self, pool: &'a PoolName) -> impl Iterator<Item = &'a String> {
        let prefix = format!("{pool}-");
        let own = self.running.iter();
        own.filter(move |name| name.starts_with(&prefix))
    }

    /// How many workers of a pool run and were not told to end.
    fn staying(&self, pool: &PoolName) -> u32 {
        let staying = self.of_pool(pool).filter(|name| !self.told.contains(*name));
        u32::try_from(staying.count()).unwrap()
    }

    fn doubtful(&self, pool: &PoolName) -> u32 {
        let ending = self.of_pool(pool);
        let doubtful = ending.filter(|name| self.doubtful.contains(*name));
        u32::try_from(doubtful.count()).unwrap()
    }

    /// What a pool should have, or has nevertheless, without what was told to end.
    fn used(&self, pool: &PoolName) -> u32 {
        let wanted = self.wanted.get(pool).copied().unwrap_or_default();
        self.staying(pool)
            .max(wanted.saturating_sub(self.doubtful(pool)))
    }

    fn used_with_ending(&self, pool: &PoolName) -> u64 {
        let ending = self.of_pool(pool).filter(|name| self.told.contains(*name));
        u64::from(self.used(pool)) + ending.count() as u64
    }

    /// As the task scales a pool, with a node that fails as `fate` says.
    fn scale(&mut self, pool: &PoolName, size: u32, fate: Fate) {
        let before = self.crew.clone();
        self.crew.want(pool, size);
        let surplus = self.crew.shed(pool);
        if !surplus.is_empty() {
            let mut wanted = self.wanted.clone();
            wanted.insert(pool.clone(), size);
            self.end(surplus, before, wanted, fate);
            return;
        }
        let hired = self.crew.hire(pool, MemberId::site(1));
        self.record = self.crew.clone();
        for (index, name) in hired.iter().enumerate() {
            let mut never_started = &hired[index..];
            match fate {
                Fate::Dies(orders) if index == orders => break,
                Fate::Refuses(orders) if index == orders => {}
                Fate::IsSilent(orders) if index == orders => {
                    self.running.insert(name.clone());
                    self.told.insert(name.clone());
                    self.doubtful.insert(name.clone());
                    self.crew.doubt(name);
                    never_started = &never_started[1..];
                }
                Fate::Obeys | Fate::Dies(_) | Fate::Refuses(_) | Fate::IsSilent(_) => {
                    self.running.insert(name.clone());
                    continue;
                }
            }
            let had = before.wanted(pool);
            self.crew.unhire(pool, never_started, had);
            self.record = self.crew.clone();
            let wanted = had.max(self.staying(pool)).min(size);
            self.wanted.insert(pool.clone(), wanted);
            return;
        }
        self.wanted.insert(pool.clone(), size);
    }

    /// Has the node end workers, after which there should be so many.
    fn end(
        &mut self,
        names: Vec<String>,
        before: Crew,
        wanted: BTreeMap<PoolName, u32>,
        fate: Fate,
    ) {
        self.record = self.crew.clone();
        match fate {
            Fate::Refuses(0) | Fate::IsSilent(0) => {
                self.crew = before;
                self.record = self.crew.clone();
                return;
            }
            // The next agent tells it.
            Fate::Dies(0) => {}
            Fate::Obeys | Fate::Dies(_) | Fate::Refuses(_) | Fate::IsSilent(_) => {
                self.told.extend(names.iter().cloned());
            }
        }
        self.wanted = wanted;
    }

    /// As the task stops a worker, or all.
    fn stop(&mut self, which: Option<usize>, fate: Fate) {
        let staying: Vec<&String> = self.running.difference(&self.told).collect();
        let mut wanted = self.wanted.clone();
        let names = match which {
            Some(_) if staying.is_empty() => return,
            Some(which) => {
                let name = staying[which % staying.len()].clone();
                let wanted = wanted.entry(pool_of(&name)).or_default();
                *wanted = wanted.saturating_sub(1);
                vec![name]
            }
            None => {
                wanted.clear();
                Vec::new()
            }
        };
        let before = self.crew.clone();
        let stopped = self.crew.stop(names).unwrap();
        self.end(stopped, before, wanted, fate);
    }

    /// As the task does when a pool is due.
    fn replace(&mut self, pool: &PoolName) {
        let wanted = self.crew.wanted(pool);
        self.scale(pool, wanted, Fate::Obeys);
    }

    /// A worker ends by itself, or because it was told to.
    fn exits(&mut self, which: usize, success: bool) {
        if self.running.is_empty() {
            return;
        }
        let name = self.running.iter().nth(which % self.running.len());
        let name = name.unwrap().clone();
        self.running.remove(&name);
        let asked = self.told.remove(&name);
        let own = pool_of(&name);
        let expected = match (asked, success) {
            (true, _) => Exit::Expected,
            (false, true) => Exit::Retired,
            (false, false) => Exit::Lost(own.clone()),
        };
        if expected == Exit::Retired {
            let wanted = self.wanted.entry(own).or_default();
            *wanted = wanted.saturating_sub(1);
        }
        assert_eq!(self.crew.exited(&name, success, asked), expected);
        self.record = self.crew.clone();
    }

    /// A worker that was told to end does.
    fn obey(&mut self, which: usize) {
        if self.told.is_empty() {
            return;
        }
        let name = self.told.iter().nth(which % self.told.len());
        let name = name.unwrap().clone();
        self.running.remove(&name);
        self.told.remove(&name);
        assert_eq!(self.crew.exited(&name, true, true), Exit::Expected);
        self.record = self.crew.clone();
    }
}

fn pool_of(worker: &str) -> PoolName {
    let mut pools = POOLS.into_iter();
    pool(pools.find(|pool| worker.starts_with(pool)).unwrap())
}
