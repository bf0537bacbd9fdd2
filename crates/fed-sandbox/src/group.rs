//! Which process of a sandbox descends from which of those that the outer half started.
//!
//! Does no IO: it is handed what `/proc` said.

use std::collections::BTreeMap;

use crate::limits::Allowance;
use crate::spec::ProcessId;

/// A process as `/proc/PID/stat` tells of it; numbers are the sandbox's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    pub(crate) threads: u32,
    /// It has ended, and waits to be reaped.
    pub(crate) is_dead: bool,
    /// Ticks of the clock since the machine started: tells apart who had a number when.
    pub(crate) started: u64,
    /// Bytes in memory; what is shared counts in each process.
    pub(crate) resident_bytes: u64,
}

impl Sample {
    /// What no other process has.
    pub(crate) fn identity(&self) -> (i32, u64) {
        (self.pid, self.started)
    }
}

/// A process that the outer half started, in a session of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) pid: i32,
    pub(crate) allowance: Option<Allowance>,
}

/// The processes that belong together: a leader's, or those that are nobody's.
pub(crate) type Families = BTreeMap<Option<ProcessId>, Vec<Sample>>;

/// Remembers whose each process is, because a process whose parent ends gets another.
#[derive(Debug, Default)]
pub(crate) struct Genealogy {
    /// By number: when it was started, and whose it is.
    known: BTreeMap<i32, (u64, Option<ProcessId>)>,
}

impl Genealogy {
    /// Sorts what was seen at one time; PID 1 is left out.
    pub(crate) fn sort(
        &mut self,
        leaders: &BTreeMap<ProcessId, Leader>,
        samples: &[Sample],
    ) -> Families {
        let by_pid: BTreeMap<i32, &Sample> =
            samples.iter().map(|sample| (sample.pid, sample)).collect();
        let led: BTreeMap<i32, ProcessId> = leaders
            .iter()
            .map(|(process, leader)| (leader.pid, *process))
            .collect();
        let mut known = BTreeMap::new();
        let mut families = Families::new();
        for sample in samples.iter().filter(|sample| sample.pid != 1) {
            let owner = self.owner(sample, &led, &by_pid);
            known.insert(sample.pid, (sample.started, owner));
            families.entry(owner).or_default().push(*sample);
        }
        self.known = known;
        families
    }

    /// Follows the parents to one that is known, and then the session.
    fn owner(
        &self,
        sample: &Sample,
        led: &BTreeMap<i32, ProcessId>,
        by_pid: &BTreeMap<i32, &Sample>,
    ) -> Option<ProcessId> {
        let mut ancestor = *sample;
        // Bounded: numbers that were used again meanwhile could make a circle.
        for _ in 0..=by_pid.len() {
            if let Some(process) = led.get(&ancestor.pid) {
                return Some(*process);
            }
            if let Some((started, Some(owner))) = self.known.get(&ancestor.pid)
                && *started == ancestor.started
            {
                return Some(*owner);
            }
            if let Some(process) = led.get(&ancestor.session) {
                return Some(*process);
            }
            match by_pid.get(&ancestor.parent) {
                Some(parent) if parent.pid != 1 => ancestor = **parent,
                _ => break,
            }
        }
        let (started, owner) = self.known.get(&sample.session)?;
        // A session keeps its number while it has members, but whoever began it may have ended.
        let begun_by = by_pid.get(&sample.session);
        let is_same = begun_by.is_none_or(|first| first.started == *started);
        owner.filter(|_| is_same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pid: i32, parent: i32, session: i32) -> Sample {
        Sample {
            pid,
            parent,
            session,
            threads: 1,
            is_dead: false,
            started: u64::try_from(pid).unwrap(),
            resident_bytes: 0,
        }
    }

    fn pids(families: &Families, owner: Option<u64>) -> Vec<i32> {
        let family = families.get(&owner.map(ProcessId));
        family
            .into_iter()
            .flatten()
            .map(|sample| sample.pid)
            .collect()
    }

    #[test]
    fn descendants_stay_in_the_family_whatever_they_do() {
        let leader = |pid| Leader {
            pid,
            allowance: None,
        };
        let leaders = BTreeMap::from([(ProcessId(1), leader(10)), (ProcessId(2), leader(20))]);
        let mut genealogy = Genealogy::default();
        let first = [
            sample(1, 0, 1),
            sample(10, 1, 10),
            sample(11, 10, 10),
            sample(12, 11, 12),
            sample(20, 1, 20),
            sample(21, 20, 21),
        ];
        let families = genealogy.sort(&leaders, &first);
        assert_eq!(pids(&families, Some(1)), [10, 11, 12]);
        assert_eq!(pids(&families, Some(2)), [20, 21]);
        // 11 has ended; 12 is PID 1's child now, in its own session, and has children there. 13
        // and 14 were never seen with a parent: one has its leader's session, one has a session of
        // its own. 21 is another process than before.
        let mut again = sample(21, 1, 21);
        again.started = 99;
        let second = [
            sample(1, 0, 1),
            sample(10, 1, 10),
            sample(12, 1, 12),
            sample(13, 1, 10),
            sample(14, 1, 14),
            sample(15, 1, 12),
            sample(20, 1, 20),
            again,
        ];
        let families = genealogy.sort(&leaders, &second);
        assert_eq!(pids(&families, Some(1)), [10, 12, 13, 15]);
        assert_eq!(pids(&families, None), [14, 21]);
        // A leader that has ended is followed by its family.
        let families = genealogy.sort(&BTreeMap::new(), &second[2..4]);
        assert_eq!(pids(&families, Some(1)), [12, 13]);
    }
}
