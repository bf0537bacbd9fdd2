//! The watch over what the processes of a sandbox use: tells of an excess, then ends the family
//! whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{Interval, MissedTickBehavior};

use crate::census::Census;
use crate::group::{Genealogy, Leader, Sample};
use crate::handle::WeakHandle;
use crate::inner::Event;
use crate::limits::{Allowance, Excess, Resources};
use crate::scratch::Scratch;
use crate::spec::ProcessId;

/// How often processes are looked at. Memory fills at some gigabytes a second.
const PERIOD: Duration = Duration::from_millis(200);
/// After how long a family is looked at precisely again that was found to share its memory.
const PRECISE: Duration = Duration::from_secs(1);
/// How often the scratch folder is looked through where its file system loses no space.
const SCRATCH_PERIOD: Duration = Duration::from_secs(5);
/// The scratch folder is looked through at once when this part of what it may hold has been lost
/// to anybody since the last look.
const SCRATCH_STEP: u64 = 8;
/// The share of time spent on looking through the scratch folder: one of so many parts.
const SCRATCH_SHARE: u32 = 4;
/// How often, and how long apart, it is looked whether any are left of those that are being killed.
const ROUNDS: usize = 100;
const ROUND: Duration = Duration::from_millis(20);
/// After how many times of finding none it is believed.
const QUIET_ROUNDS: u32 = 3;
/// Most processes that are named in one message; more are found at the next look.
const STRAYS_AT_ONCE: usize = 10_000;

/// The processes that the outer half started, as the driver of the sandbox knows them.
pub(crate) type Leaders = BTreeMap<ProcessId, Leader>;

/// Where the watch reports to, and what it may ask for.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    pub(crate) leaders: watch::Receiver<Leaders>,
    pub(crate) events: mpsc::UnboundedSender<Event>,
    pub(crate) sandbox: WeakHandle,
}

impl Desk {
    fn has_closed(&self) -> bool {
        self.leaders.has_changed().is_err()
    }

    fn tell(&self, excess: Excess) {
        // Nobody may be listening any more.
        let _ = self.events.send(Event::Exceeded(excess));
    }
}

/// Watches processes until the sandbox ends.
pub(crate) async fn processes(census: Arc<Census>, desk: Desk) {
    let mut ticks = ticks();
    let mut watched = Processes::default();
    while !desk.has_closed() {
        ticks.tick().await;
        let at = Arc::clone(&census);
        let leaders = desk.leaders.borrow().clone();
        let now = leaders.clone();
        let looked = blocking(watched, move |watched| {
            let is_crowd = watched.is_crowd(&at, &now);
            let excesses = match is_crowd {
                true => Vec::new(),
                false => watched.look(&at, &now),
            };
            (is_crowd, excesses)
        });
        let Some((back, (is_crowd, excesses))) = looked.await else {
            return;
        };
        watched = back;
        excesses.into_iter().for_each(|excess| desk.tell(excess));
        if is_crowd || watched.has_condemned {
            let Some(back) = in_peace(watched, &census, &desk, leaders).await else {
                return;
            };
            watched = back;
        }
    }
}

/// Stops all, so that nobody can multiply or hide or take the time that the look needs; kills the
/// condemned, and lets the others go on.
async fn in_peace(
    mut watched: Processes,
    census: &Arc<Census>,
    desk: &Desk,
    leaders: Leaders,
) -> Option<Processes> {
    let sandbox = desk.sandbox.upgrade()?;
    sandbox.stop_all().await.ok()?;
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        let (at, now) = (Arc::clone(census), leaders.clone());
        let (back, excesses) = blocking(watched, move |watched| watched.look(&at, &now)).await?;
        // Before the end, which is told by PID 1.
        excesses.into_iter().for_each(|excess| desk.tell(excess));
        let (at, now) = (Arc::clone(census), leaders.clone());
        let (back, killed) = blocking(back, move |watched| watched.kill(&at, &now)).await?;
        watched = back;
        quiet = if killed.any { 0 } else { quiet + 1 };
        if watched.condemned.is_empty() || quiet == QUIET_ROUNDS {
            break;
        }
        sandbox.purge(killed.strays).await.ok()?;
        // Who was being made when all stopped shows when its parent has got that far.
        tokio::time::sleep(ROUND).await;
    }
    sandbox.continue_all().await.ok()?;
    Some(watched)
}

/// Watches the scratch folder until the sandbox ends.
pub(crate) async fn files(census: Arc<Census>, scratch: Scratch, desk: Desk) {
    let mut ticks = ticks();
    let mut watched = Files::new(scratch);
    while !desk.has_closed() {
        ticks.tick().await;
        let at = Arc::clone(&census);
        let looked = blocking(watched, move |watched| watched.look(&at)).await;
        let Some((back, excess)) = looked else { return };
        watched = back;
        excess.into_iter().for_each(|excess| desk.tell(excess));
    }
}

fn ticks() -> Interval {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Does what may block with a value, and gives it back; nothing where the runtime ends.
async fn blocking<T: Send + 'static, R: Send + 'static>(
    mut value: T,
    work: impl FnOnce(&mut T) -> R + Send + 'static,
) -> Option<(T, R)> {
    let working = tokio::task::spawn_blocking(move || {
        let result = work(&mut value);
        (value, result)
    });
    working.await.ok()
}

/// The watch over processes.
#[derive(Debug, Default)]
struct Processes {
    genealogy: Genealogy,
    /// How many there were at the last look.
    count: usize,
    condemned: BTreeSet<Option<ProcessId>>,
    /// Some of theirs are still to be killed.
    has_condemned: bool,
    /// Members of theirs that were killed, by number and start, and take their time to end.
    killed: BTreeSet<(i32, u64)>,
    precise: BTreeMap<Option<ProcessId>, Instant>,
    /// What is nobody's may use as much as the least of those that were somebody's.
    of_nobody: Option<Allowance>,
}

impl Processes {
    /// Tells whether there are so many more processes than at the last look that all must stop for
    /// the next: to read of each of thousands that run takes more time than they leave.
    fn is_crowd(&mut self, census: &Census, leaders: &Leaders) -> bool {
        let allowances = leaders.values().filter_map(|leader| leader.allowance);
        let Some(least) = allowances.map(|allowance| allowance.processes).min() else {
            return false;
        };
        let count = census.count();
        count > usize::try_from(least).unwrap_or(usize::MAX) && count > self.count + self.count / 8
    }

    /// Finds who uses too much, and condemns them, as well as what leaders left behind.
    fn look(&mut self, census: &Census, leaders: &Leaders) -> Vec<Excess> {
        let Ok(samples) = census.take() else {
            return Vec::new();
        };
        self.count = samples.len();
        let families = self.genealogy.sort(leaders, &samples);
        let allowances = leaders.values().filter_map(|leader| leader.allowance);
        let known = allowances.chain(self.of_nobody);
        self.of_nobody = known.min_by_key(|allowance| allowance.memory_bytes);
        self.condemned.retain(|owner| families.contains_key(owner));
        let mut excesses = Vec::new();
        for (owner, members) in &families {
            let allowance = match owner {
                None => self.of_nobody,
                Some(process) => match leaders.get(process) {
                    Some(leader) => leader.allowance,
                    None => {
                        self.condemned.insert(*owner);
                        continue;
                    }
                },
            };
            let excess = allowance.and_then(|limit| self.excess(census, *owner, members, limit));
            if let Some(excess) = excess
                && self.condemned.insert(*owner)
            {
                excesses.push(excess);
            }
        }
        let members = families.values().flatten();
        let seen: BTreeSet<_> = members.map(Sample::identity).collect();
        self.killed.retain(|killed| seen.contains(killed));
        let doomed = self
            .condemned
            .iter()
            .filter_map(|owner| families.get(owner));
        let is_left =
            |member: &Sample| !member.is_dead && !self.killed.contains(&member.identity());
        self.has_condemned = doomed.flatten().any(is_left);
        excesses
    }

    fn excess(
        &mut self,
        census: &Census,
        process: Option<ProcessId>,
        members: &[Sample],
        allowance: Allowance,
    ) -> Option<Excess> {
        let excess = |resource, used: u64, limit: u64| {
            (used > limit).then_some(Excess {
                process,
                resource,
                used,
                limit,
            })
        };
        let threads = members.iter().map(|member| u64::from(member.threads)).sum();
        let most = u64::from(allowance.processes);
        if let Some(excess) = excess(Resources::Processes, threads, most) {
            return Some(excess);
        }
        let limit = allowance.memory_bytes;
        let resident = members.iter().map(|member| member.resident_bytes).sum();
        excess(Resources::Memory, resident, limit)?;
        // What members share was counted once for each. To count it once takes time.
        let is_due = |looked: &Instant| looked.elapsed() >= PRECISE;
        if !self.precise.get(&process).is_none_or(is_due) {
            return None;
        }
        let found = excess(Resources::Memory, census.memory_of(members), limit);
        self.precise.insert(process, Instant::now());
        found
    }

    /// Kills the condemned, and finds those that are nobody's: while families die, they are most
    /// likely of them.
    fn kill(&mut self, census: &Census, leaders: &Leaders) -> Killed {
        let mut killed = Killed::default();
        if self.condemned.is_empty() {
            return killed;
        }
        let samples = census.take().unwrap_or_default();
        for (owner, members) in self.genealogy.sort(leaders, &samples) {
            if owner.is_some() && !self.condemned.contains(&owner) {
                continue;
            }
            for member in members.iter().filter(|member| !member.is_dead) {
                if killed.strays.len() == STRAYS_AT_ONCE || !self.killed.insert(member.identity()) {
                    continue;
                }
                killed.any = true;
                match owner {
                    Some(_) => census.kill(member),
                    None => killed.strays.push(member.pid),
                }
            }
        }
        killed
    }
}

/// What was killed in a round.
#[derive(Debug, Default)]
struct Killed {
    any: bool,
    /// Those that are nobody's, or just being started: PID 1 knows which, and kills the first.
    strays: Vec<i32>,
}

/// The watch over files.
#[derive(Debug)]
struct Files {
    scratch: Scratch,
    left_bytes: Option<u64>,
    looked: Option<Instant>,
    took: Duration,
}

impl Files {
    fn new(scratch: Scratch) -> Self {
        Self {
            scratch,
            left_bytes: None,
            looked: None,
            took: Duration::ZERO,
        }
    }

    /// Looks through the folder, if it is time.
    fn look(&mut self, census: &Census) -> Option<Excess> {
        let left = self.scratch.left_bytes().ok();
        let lost = self.left_bytes.zip(left);
        let step = self.scratch.limit_bytes() / SCRATCH_STEP;
        let has_lost = lost.is_some_and(|(before, now)| before.saturating_sub(now) >= step);
        let since = self.looked.map(|looked| looked.elapsed());
        let is_due = since.is_none_or(|since| {
            since >= self.took * SCRATCH_SHARE && (has_lost || since >= SCRATCH_PERIOD)
        });
        if !is_due {
            return None;
        }
        let begun = Instant::now();
        let excess = self.scratch.look(census);
        self.took = begun.elapsed();
        self.looked = Some(Instant::now());
        // After an excess, what there was needs time to go.
        self.left_bytes = left.filter(|_| excess.is_none());
        excess
    }
}
