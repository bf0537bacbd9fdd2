//! Who may write in the ledger: a federation's task, by its account, and whoever has reserved.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fed_core::{FederationId, PoolName, PoolOffer};
use fed_rpc::status::Refusal;

use super::ledger::{Ledger, Load, Ticket};
use super::policy::Allowance;

/// The ledger of one agent. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Accounts(Arc<Mutex<Ledger>>);

impl Accounts {
    /// Opens the account of a new federation.
    ///
    /// # Errors
    /// See [`Ledger::admit`].
    pub(super) fn admit(
        &self,
        id: FederationId,
        operator: &str,
        offers: Vec<PoolOffer>,
        allowance: &Allowance<'_>,
    ) -> Result<Account, Refusal> {
        self.lock().admit(id, operator, offers, allowance)?;
        Ok(self.account(id))
    }

    /// Opens the account of a federation that runs, with the workers that it has already.
    pub(super) fn open(
        &self,
        id: FederationId,
        operator: &str,
        offers: Vec<PoolOffer>,
        load: Load,
    ) -> Account {
        self.lock().open(id, operator, offers, load);
        self.account(id)
    }

    fn account(&self, id: FederationId) -> Account {
        Account {
            accounts: self.clone(),
            id,
        }
    }

    /// Reserves numbers of workers for some pools of a federation.
    ///
    /// # Errors
    /// See [`Ledger::reserve`].
    pub(super) fn reserve(
        &self,
        id: FederationId,
        sizes: &[(PoolName, u32)],
        allowance: &Allowance<'_>,
    ) -> Result<Reservation, Refusal> {
        let ticket = self.lock().reserve(id, sizes, allowance)?;
        Ok(Reservation {
            accounts: self.clone(),
            id,
            ticket,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a federation's task reports to. Closed when it is dropped, at the latest.
#[derive(Debug)]
pub(super) struct Account {
    accounts: Accounts,
    id: FederationId,
}

impl Account {
    /// Says what the federation uses.
    pub(super) fn report(&self, load: Load) {
        self.accounts.lock().report(self.id, load);
    }

    /// Says that nothing is left of the federation.
    pub(super) fn close(&self) {
        self.accounts.lock().close(self.id);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.close();
    }
}

/// Workers that nobody else can have. It goes with the call that asks for them, and is given back
/// when it is dropped: after the federation's task has reported, or because the call never reached
/// it.
#[derive(Debug)]
pub(super) struct Reservation {
    accounts: Accounts,
    id: FederationId,
    ticket: Option<Ticket>,
}

impl Reservation {
    /// Whether the workers may be started now.
    ///
    /// # Errors
    /// See [`Ledger::check`].
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let Some(ticket) = self.ticket else {
            return Ok(());
        };
        self.accounts.lock().check(self.id, ticket)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.accounts.lock().release(self.id, ticket);
        }
    }
}
