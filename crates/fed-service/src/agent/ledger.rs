//! Who uses how much of the site, and who may have more.
//!
//! Does no IO and counts nothing by itself. Each federation's task reports the workers that it
//! keeps or still has; whoever wants more reserves them first, and a reservation lasts until the
//! task has reported what came of it. Until then the greater of both counts.

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
        let entry = Entry {
            operator: operator.to_owned(),
            offers,
            load,
            reserved: BTreeMap::new(),
        };
        self.accounts.insert(id, entry);
    }

    /// Takes the word of a federation's task for what it uses.
    pub(super) fn report(&mut self, id: FederationId, load: Load) {
        if let Some(entry) = self.accounts.get_mut(&id) {
            entry.load = load;
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
        let (before, after) = (entry.usage(None), entry.usage(Some(&sizes)));
        allowance.total(others + before, others + after)?;
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let entry = self.accounts.get_mut(&id).expect("it was there above");
        entry.reserved.insert(ticket, sizes);
        Ok(Some(ticket))
    }

    /// Gives a reservation back: what came of it has been reported.
    pub(super) fn release(&mut self, id: FederationId, ticket: Ticket) {
        if let Some(entry) = self.accounts.get_mut(&id) {
            entry.reserved.remove(&ticket);
        }
    }

    /// What the federations of an operator use, and have reserved, all but one.
    fn usage(&self, operator: &str, but: Option<FederationId>) -> Usage {
        let own = self.accounts.iter();
        own.filter(|(id, entry)| entry.operator == operator && Some(**id) != but)
            .map(|(_, entry)| entry.usage(None))
            .sum()
    }
}

impl Entry {
    /// What the federation uses, and has reserved; `more` is a further reservation.
    fn usage(&self, more: Option<&Sizes>) -> Usage {
        let mut load = self.load.clone();
        for (pool, workers) in self.reserved.values().chain(more).flatten() {
            let count = load.entry(pool.clone()).or_default();
            count.staying = count.staying.max(*workers);
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
