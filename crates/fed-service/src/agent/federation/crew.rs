//! The workers of a federation at a site: which run, which are ending, and how many there should be.
//!
//! Does no IO: the federation's task asks here, and brings about what it says.

use std::collections::{BTreeMap, BTreeSet};

use fed_core::{MemberId, PoolName};
use serde::{Deserialize, Serialize};

use crate::agent::ledger::{Headcount, Load};
use crate::agent::workers;

/// The workers of one federation, as its record keeps them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::agent) struct Crew {
    /// Number that the next worker gets.
    next_worker: u32,
    /// Names of the workers that run, by pool, the oldest first.
    workers: BTreeMap<PoolName, Vec<String>>,
    /// How many should run, by pool.
    #[serde(default)]
    wanted: BTreeMap<PoolName, u32>,
    /// Names of those that have been told to end, and may not have yet.
    #[serde(default)]
    ending: BTreeMap<PoolName, Vec<String>>,
    /// Which of these may never have started: until they have ended, no others take their places.
    #[serde(default)]
    doubtful: BTreeSet<String>,
}

/// What the end of a worker means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Exit {
    /// It had been told to end, or is none of the federation's.
    Expected,
    /// The scheduler has retired it: its pool is to have one less.
    Retired,
    /// Its pool is short of one.
    Lost(PoolName),
}

impl Crew {
    /// Names of the workers that run and have not been told to end.
    pub(in crate::agent) fn names(&self) -> Vec<String> {
        self.workers.values().flatten().cloned().collect()
    }

    /// Names of the workers that have been told to end.
    pub(in crate::agent) fn ending(&self) -> Vec<String> {
        self.ending.values().flatten().cloned().collect()
    }

    /// How many workers a pool should have.
    pub(in crate::agent) fn wanted(&self, pool: &PoolName) -> u32 {
        self.wanted.get(pool).copied().unwrap_or_default()
    }

    /// What the federation uses: workers that are to be replaced count, and so do those that have
    /// been told to end until they have.
    pub(in crate::agent) fn load(&self) -> Load {
        let mut load = Load::new();
        for pool in self.wanted.keys() {
            load.entry(pool.clone()).or_default().staying = self.due(pool);
        }
        for (pool, workers) in &self.workers {
            let Headcount { staying, .. } = load.entry(pool.clone()).or_default();
            *staying = count(workers).max(*staying);
        }
        for (pool, workers) in &self.ending {
            let of_pool = load.entry(pool.clone()).or_default();
            of_pool.ending = count(workers);
            of_pool.doubtful = self.doubtful(pool);
        }
        load
    }

    /// Sets how many workers a pool should have.
    pub(in crate::agent) fn want(&mut self, pool: &PoolName, workers: u32) {
        self.wanted.insert(pool.clone(), workers);
    }

    /// How many workers a pool is to have while it is not known whether some have started.
    fn due(&self, pool: &PoolName) -> u32 {
        self.wanted(pool).saturating_sub(self.doubtful(pool))
    }

    fn doubtful(&self, pool: &PoolName) -> u32 {
        let ending = self.ending.get(pool).into_iter().flatten();
        let doubtful = ending.filter(|worker| self.doubtful.contains(*worker));
        u32::try_from(doubtful.count()).unwrap_or(u32::MAX)
    }

    /// Whether a pool has fewer workers than it should.
    pub(in crate::agent) fn is_short(&self, pool: &PoolName) -> bool {
        self.workers.get(pool).map_or(0, |workers| count(workers)) < self.wanted(pool)
    }

    /// Counts as running the workers that a pool is short of and may have now, and returns their
    /// names.
    pub(in crate::agent) fn hire(&mut self, pool: &PoolName, member: MemberId) -> Vec<String> {
        let due = self.due(pool);
        let workers = self.workers.entry(pool.clone()).or_default();
        let mut hired = Vec::new();
        while count(workers) < due {
            let name = workers::name(pool, member, self.next_worker);
            self.next_worker += 1;
            workers.push(name.clone());
            hired.push(name);
        }
        hired
    }

    /// Takes back workers that were never started. Their pool should have no more than it has, or
    /// than it should have had before.
    pub(in crate::agent) fn unhire(&mut self, pool: &PoolName, names: &[String], before: u32) {
        let workers = self.workers.entry(pool.clone()).or_default();
        workers.retain(|worker| !names.contains(worker));
        let wanted = before.max(count(workers)).min(self.wanted(pool));
        self.want(pool, wanted);
    }

    /// Counts as ending a worker of which it is not known whether it has started.
    pub(in crate::agent) fn doubt(&mut self, name: &str) {
        self.doubtful.insert(name.to_owned());
        self.release(&[name.to_owned()]);
    }

    /// The same for all workers but those that run.
    pub(in crate::agent) fn doubt_all_but(&mut self, running: &[String]) {
        for name in self.names() {
            if !running.contains(&name) {
                self.doubt(&name);
            }
        }
    }

    /// Counts the youngest workers that a pool has too many as ending, and returns their names.
    pub(in crate::agent) fn shed(&mut self, pool: &PoolName) -> Vec<String> {
        let wanted = usize::try_from(self.wanted(pool)).unwrap_or(usize::MAX);
        let workers = self.workers.get(pool).map_or(&[][..], Vec::as_slice);
        let surplus = workers.get(wanted..).unwrap_or_default().to_vec();
        self.release(&surplus);
        surplus
    }

    /// Counts workers as ending that are not wanted any more, all of them if none is named, and
    /// returns their names.
    ///
    /// # Errors
    /// The first name that is no worker's; nothing is changed then.
    pub(in crate::agent) fn stop(&mut self, names: Vec<String>) -> Result<Vec<String>, String> {
        if names.is_empty() {
            self.wanted.clear();
            let all = self.names();
            self.release(&all);
            return Ok(all);
        }
        let known = self.names();
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            return Err(unknown.clone());
        }
        for (pool, workers) in &self.workers {
            let stopped = workers.iter().filter(|worker| names.contains(worker));
            let stopped = u32::try_from(stopped.count()).unwrap_or(u32::MAX);
            if let Some(wanted) = self.wanted.get_mut(pool) {
                *wanted = wanted.saturating_sub(stopped);
            }
        }
        self.release(&names);
        Ok(names)
    }

    /// Counts workers as ending.
    pub(in crate::agent) fn release(&mut self, names: &[String]) {
        for (pool, workers) in &mut self.workers {
            let released = workers.extract_if(.., |worker| names.contains(worker));
            let released: Vec<String> = released.collect();
            if !released.is_empty() {
                self.ending
                    .entry(pool.clone())
                    .or_default()
                    .extend(released);
            }
        }
    }

    /// Takes account of the end of a process. `success` is whether it ended in good order, `asked`
    /// whether it had been told to end.
    pub(in crate::agent) fn exited(&mut self, name: &str, success: bool, asked: bool) -> Exit {
        for workers in self.ending.values_mut() {
            workers.retain(|worker| worker != name);
        }
        self.doubtful.remove(name);
        let mut pools = self.workers.iter_mut();
        let Some((pool, workers)) =
            pools.find(|(_, workers)| workers.iter().any(|worker| worker == name))
        else {
            return Exit::Expected;
        };
        workers.retain(|worker| worker != name);
        // One that was told to end, by an order that seemed to have failed, is not replaced either.
        if !success && !asked {
            return Exit::Lost(pool.clone());
        }
        if let Some(wanted) = self.wanted.get_mut(pool) {
            *wanted = wanted.saturating_sub(1);
        }
        if asked { Exit::Expected } else { Exit::Retired }
    }

    /// Takes account of the processes that still run: the others that were told to end have.
    pub(in crate::agent) fn have_ended_but(&mut self, running: &[String]) {
        for workers in self.ending.values_mut() {
            workers.retain(|worker| running.contains(worker));
        }
        self.doubtful.retain(|worker| running.contains(worker));
    }

    /// Takes account of the processes that outlived an earlier agent. Returns the pools that have
    /// another number of workers than they should.
    pub(in crate::agent) fn adopt(&mut self, running: &[String]) -> Vec<PoolName> {
        self.have_ended_but(running);
        for workers in self.workers.values_mut() {
            workers.retain(|worker| running.contains(worker));
        }
        let pools = self.wanted.keys().chain(self.workers.keys());
        let uneven = pools.filter(|pool| {
            let workers = self.workers.get(*pool).map_or(0, |workers| count(workers));
            workers != self.wanted(pool)
        });
        let mut uneven: Vec<PoolName> = uneven.cloned().collect();
        uneven.sort();
        uneven.dedup();
        uneven
    }
}

fn count(workers: &[String]) -> u32 {
    u32::try_from(workers.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::policy::tests::pool;

    fn crew(workers: u32) -> Crew {
        let mut crew = Crew::default();
        crew.want(&pool("hot"), workers);
        crew.hire(&pool("hot"), MemberId::site(1));
        crew
    }

    fn load(staying: u32, ending: u32) -> Load {
        let count = Headcount {
            staying,
            ending,
            doubtful: 0,
        };
        Load::from([(pool("hot"), count)])
    }

    #[test]
    fn no_other_takes_the_place_of_a_worker_that_may_have_started() {
        let mut crew = crew(4);
        assert_eq!(
            crew.exited("hot-1-1", false, false),
            Exit::Lost(pool("hot"))
        );
        let hired = crew.hire(&pool("hot"), MemberId::site(1));
        assert_eq!(hired, ["hot-1-4"]);
        crew.doubt("hot-1-4");
        crew.unhire(&pool("hot"), &[], 4);
        let count = Headcount {
            staying: 3,
            ending: 1,
            doubtful: 1,
        };
        assert_eq!(crew.load(), Load::from([(pool("hot"), count)]));
        assert!(crew.hire(&pool("hot"), MemberId::site(1)).is_empty());
        assert!(crew.is_short(&pool("hot")));
        assert_eq!(crew.exited("hot-1-4", true, true), Exit::Expected);
        assert_eq!(crew.load(), load(4, 0));
        assert_eq!(crew.hire(&pool("hot"), MemberId::site(1)), ["hot-1-5"]);
        assert!(!crew.is_short(&pool("hot")));
    }

    #[test]
    fn an_order_that_seemed_to_fail_may_have_been_obeyed() {
        let mut crew = crew(4);
        let before = crew.clone();
        crew.want(&pool("hot"), 2);
        let shed = crew.shed(&pool("hot"));
        assert_eq!(shed, ["hot-1-2", "hot-1-3"]);
        assert_eq!(crew.load(), load(2, 2));
        crew = before;
        for (name, success) in [("hot-1-2", true), ("hot-1-3", false)] {
            assert_eq!(crew.exited(name, success, true), Exit::Expected);
        }
        assert_eq!(crew.load(), load(2, 0));
    }

    #[test]
    fn orders_of_an_earlier_agent_may_still_be_obeyed() {
        let mut crew = crew(3);
        let running = ["hot-1-0", "hot-1-2"].map(str::to_owned);
        crew.doubt_all_but(&running);
        assert_eq!(crew.ending(), ["hot-1-1"]);
        // It has started meanwhile, and is told to end.
        let late = ["hot-1-0", "hot-1-1", "hot-1-2"].map(str::to_owned);
        assert_eq!(crew.adopt(&late), [pool("hot")]);
        assert!(crew.hire(&pool("hot"), MemberId::site(1)).is_empty());
        // Or it has not, and will not.
        assert_eq!(crew.adopt(&running), [pool("hot")]);
        assert_eq!(crew.hire(&pool("hot"), MemberId::site(1)), ["hot-1-3"]);
    }

    #[test]
    fn an_end_that_was_not_told_is_found_out() {
        let mut crew = crew(3);
        assert_eq!(
            crew.stop(vec!["hot-1-7".to_owned()]),
            Err("hot-1-7".to_owned())
        );
        crew.stop(vec!["hot-1-1".to_owned(), "hot-1-1".to_owned()])
            .unwrap();
        assert_eq!(crew.load(), load(2, 1));
        crew.have_ended_but(&["hot-1-0".to_owned(), "hot-1-2".to_owned()]);
        assert_eq!(crew.load(), load(2, 0));
        assert_eq!(crew.stop(Vec::new()).unwrap().len(), 2);
        assert_eq!(crew.load(), load(0, 2));
    }

    #[test]
    fn what_an_earlier_version_wrote_down_is_read() {
        let text = r#"{"next_worker": 3, "workers": {"hot": ["hot-1-0", "hot-1-1"]},
                       "wanted": {"hot": 2}}"#;
        let mut crew: Crew = serde_json::from_str(text).unwrap();
        assert_eq!(crew.adopt(&["hot-1-1".to_owned()]), [pool("hot")]);
        assert_eq!(crew.load(), load(2, 0));
        assert_eq!(crew.hire(&pool("hot"), MemberId::site(1)), ["hot-1-3"]);
        assert_eq!(crew.names(), ["hot-1-1", "hot-1-3"]);
    }
}
