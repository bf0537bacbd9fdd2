//! Who uses how much of the site, and who may have more.
//!
//! Does no IO and counts nothing by itself. Each federation's task reports the workers that it
//! keeps or still has; whoever wants more reserves them first, and a reservation lasts until the
//! task has reported what came of it. Until then the greater of both counts. A worker that has been
//! told to end counts beside the one that is reserved in its place, so the task asks again when it
//! takes up a call that waited: by then other calls may have made more of them.

use std::collections::BTreeMap;

use fed_core::{FederationId, PoolName, PoolOffer};
use fed_rpc::status::{Reason, Refusal};

use super::policy::{Allowance, Usage};

/// Workers of one pool of a federation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Headcount {
    /// Those that run, or will in place of others.
    pub(super) staying: u32,
    /// Those that have been told to end, and have not yet.
    pub(super) ending: u32,
    /// How many of these take the places of others, because it is not known whether they started.
    pub(super) doubtful: u32,
}

/// The workers of a federation, by pool.
pub(super) type Load = BTreeMap<PoolName, Headcount>;

/// Numbers of workers that pools are brought to.
type Sizes = BTreeMap<PoolName, u32>;

/// Names one reservation of a federation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// Who uses how much of the site.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    accounts: BTreeMap<FederationId, Entry>,
    /// Reservations that there have been.
    tickets: u64,
}

/// A federation's account.
#[derive(Clone, Debug)]
struct Entry {
    operator: String,
    /// What a worker of each pool takes.
    offers: Vec<PoolOffer>,
    load: Load,
    reserved: BTreeMap<Ticket, Sizes>,
    /// The most that it may use: what was allowed when it last reserved, and no more than it was
    /// counted with since, because others may have got the rest.
    granted: Usage,
}

impl Ledger {
    /// Opens the account of a new federation, if its operator may have another.
    ///
    /// # Errors
    /// When there are as many as are allowed; nothing is changed then.
    pub(super) fn admit(
        &mut self,
        id: FederationId,
        operator: &str,
        offers: Vec<PoolOffer>,
        allowance: &Allowance<'_>,
    ) -> Result<(), Refusal> {
        let all = self.accounts.values();
        let own = all.filter(|entry| entry.operator == operator);
        allowance.federation(own.count() as u64)?;
        self.open(id, operator, offers, Load::new());
        Ok(())
    }

    /// Opens the account of a federation that runs, with the workers that it has already.
    pub(super) fn open(
        &mut self,
        id: FederationId,
        operator: &str,
        offers: Vec<PoolOffer>,
        load: Load,
    ) {
        let mut entry = Entry {
            operator: operator.to_owned(),
            offers,
            load,
            reserved: BTreeMap::new(),
            granted: Usage::default(),
        };
        entry.granted = entry.counted();
        self.accounts.insert(id, entry);
    }

    /// Takes the word of a federation's task for what it uses.
    pub(super) fn report(&mut self, id: FederationId, load: Load) {
        if let Some(entry) = self.accounts.get_mut(&id) {
            entry.load = load;
            entry.granted = entry.granted.least(entry.counted());
        }
    }

    /// Closes the account of a federation that has ended, with all its reservations.
    pub(super) fn close(&mut self, id: FederationId) {
        self.accounts.remove(&id);
    }

    /// Reserves numbers of workers for some pools of a federation, if its operator may have as
    /// many. Nothing is reserved in a federation that has just ended: whoever is asked next says so.
    ///
    /// # Errors
    /// When a limit would be exceeded, or there is no such pool; nothing is changed then.
    pub(super) fn reserve(
        &mut self,
        id: FederationId,
        sizes: &[(PoolName, u32)],
        allowance: &Allowance<'_>,
    ) -> Result<Option<Ticket>, Refusal> {
        let Some(entry) = self.accounts.get(&id) else {
            return Ok(None);
        };
        for (pool, workers) in sizes {
            if entry.offers.iter().all(|offer| offer.name != *pool) {
                let message = format!("{} has no pool {pool}", allowance.site);
                return Err(Refusal::new(Reason::UnknownPool, message));
            }
            if *workers > 0 {
                allowance.pool(pool)?;
            }
        }
        let sizes: Sizes = sizes.iter().cloned().collect();
        let others = self.usage(&entry.operator, Some(id));
        // What is counted beyond what is used, such as workers to be had once others have ended, is
        // no right to have as many.
        let before = entry.usage([]);
        let after = entry.usage(entry.reserved.values().chain([&sizes]));
        allowance.total(others + before, others + after)?;
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let entry = self.accounts.get_mut(&id).expect("it was there above");
        entry.reserved.insert(ticket, sizes);
        entry.granted = after;
        Ok(Some(ticket))
    }

    /// Whether what was reserved still fits, now that it is about to be brought about.
    ///
    /// # Errors
    /// When more would run than was granted: calls that came first have told workers to end that
    /// were to stay when this one was reserved.
    pub(super) fn check(&self, id: FederationId, ticket: Ticket) -> Result<(), Refusal> {
        let Some(entry) = self.accounts.get(&id) else {
            return Ok(());
        };
        let (now, then) = (entry.usage([]), entry.usage(entry.reserved.get(&ticket)));
        // Who uses too much may still use less.
        if then == now || then == then.least(entry.granted) {
            return Ok(());
        }
        let ending = entry.load.iter().filter(|(_, count)| count.ending > 0);
        let pools: Vec<&str> = ending.map(|(pool, _)| pool.as_str()).collect();
        let message = format!(
            "workers of {} that were told to end have not yet; ask again in a moment",
            pools.join(" and ")
        );
        Err(Refusal::new(Reason::Exhausted, message))
    }

    /// Gives a reservation back: what came of it has been reported, or nothing will.
    pub(super) fn release(&mut self, id: FederationId, ticket: Ticket) {
        if let Some(entry) = self.accounts.get_mut(&id) {
            entry.reserved.remove(&ticket);
            entry.granted = entry.granted.least(entry.counted());
        }
    }

    /// What the federations of an operator use, and have reserved, all but one.
    fn usage(&self, operator: &str, but: Option<FederationId>) -> Usage {
        let own = self.accounts.iter();
        own.filter(|(id, entry)| entry.operator == operator && Some(**id) != but)
            .map(|(_, entry)| entry.counted())
            .sum()
    }
}

impl Entry {
    /// What the federation uses, and has reserved.
    fn counted(&self) -> Usage {
        self.usage(self.reserved.values())
    }

    /// What the federation uses, with these of its reservations.
    fn usage<'a>(&self, reserved: impl IntoIterator<Item = &'a Sizes>) -> Usage {
        let mut load = self.load.clone();
        for (pool, workers) in reserved.into_iter().flatten() {
            let count = load.entry(pool.clone()).or_default();
            let beside = workers.saturating_sub(count.doubtful);
            count.staying = count.staying.max(beside);
        }
        let of_pool = |(pool, count): (&PoolName, &Headcount)| {
            let workers = u64::from(count.staying) + u64::from(count.ending);
            let offer = self.offers.iter().find(|offer| offer.name == *pool);
            let (threads, memory) = offer.map_or((0, 0), |offer| {
                (u64::from(offer.threads), offer.memory_bytes)
            });
            Usage {
                workers,
                cores: workers.saturating_mul(threads),
                memory_bytes: workers.saturating_mul(memory),
            }
        };
        load.iter().map(of_pool).sum()
    }
}

#[cfg(test)]
mod tests;
