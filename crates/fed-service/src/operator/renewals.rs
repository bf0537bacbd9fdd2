//! When each site's lease was last renewed, and when its workers are no longer to be counted on.
//!
//! Handed the time, so that it needs no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use fed_core::{Leases, SiteName};
use tokio::time::Instant;

/// The leases of one federation's sites.
#[derive(Debug)]
pub(super) struct Renewals {
    leases: Leases,
    sites: BTreeMap<SiteName, Site>,
}

#[derive(Debug)]
struct Site {
    renewed: Instant,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its lease is renewed in time.
    Kept,
    /// Its workers have been given up, since its lease is about to lapse.
    GivenUp,
    /// Its part has ended.
    Ended,
}

impl Renewals {
    pub(super) fn new(leases: Leases) -> Self {
        Self {
            leases,
            sites: BTreeMap::new(),
        }
    }

    /// A site's lease has begun.
    pub(super) fn began(&mut self, site: SiteName, now: Instant) {
        let standing = Standing::Kept;
        let renewed = now;
        self.sites.insert(site, Site { renewed, standing });
    }

    /// A site has renewed its lease when it was asked at `asked`, or later. Returns whether its
    /// workers had been given up.
    pub(super) fn renewed(&mut self, site: &SiteName, asked: Instant) -> bool {
        match self.sites.get_mut(site) {
            Some(site) if site.standing != Standing::Ended => {
                site.renewed = site.renewed.max(asked);
                std::mem::replace(&mut site.standing, Standing::Kept) == Standing::GivenUp
            }
            Some(_) | None => false,
        }
    }

    /// A site's part has ended. Returns whether that is news.
    pub(super) fn ended(&mut self, site: &SiteName) -> bool {
        self.sites.get_mut(site).is_some_and(|site| {
            std::mem::replace(&mut site.standing, Standing::Ended) != Standing::Ended
        })
    }

    /// The sites whose leases are to be renewed.
    pub(super) fn sites(&self) -> impl Iterator<Item = &SiteName> {
        let live = self.sites.iter();
        live.filter(|(_, site)| site.standing != Standing::Ended)
            .map(|(name, _)| name)
    }

    /// How long a site's workers are counted on after a renewal: two that fail are survived, and
    /// what is left of the lease is enough to tell the scheduler.
    pub(super) fn patience(&self) -> Duration {
        self.leases.federation() * 5 / 6
    }

    /// When [`Self::take_lapsing`] has something to tell next, unless a renewal comes first.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let kept = self.sites.values();
        kept.filter(|site| site.standing == Standing::Kept)
            .map(|site| site.renewed + self.patience())
            .min()
    }

    /// Gives up the sites whose leases are about to lapse; returns them.
    pub(super) fn take_lapsing(&mut self, now: Instant) -> Vec<SiteName> {
        let patience = self.patience();
        let mut lapsing = Vec::new();
        for (name, site) in &mut self.sites {
            if site.standing == Standing::Kept && site.renewed + patience <= now {
                site.standing = Standing::GivenUp;
                lapsing.push(name.clone());
            }
        }
        lapsing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(60);

    fn site() -> SiteName {
        "ecmwf".parse().unwrap()
    }

    fn renewals(now: Instant) -> Renewals {
        let mut renewals = Renewals::new(Leases::new(LEASE));
        renewals.began(site(), now);
        renewals
    }

    #[test]
    fn two_renewals_may_fail_and_the_workers_go_before_the_lease() {
        let began = Instant::now();
        let mut renewals = renewals(began);
        let deadline = renewals.deadline().unwrap();
        assert!(deadline > began + 2 * Leases::new(LEASE).renewal());
        assert!(deadline < began + LEASE);
        assert!(
            renewals
                .take_lapsing(deadline - Duration::from_millis(1))
                .is_empty()
        );
        assert_eq!(renewals.take_lapsing(deadline), [site()]);
        assert!(
            renewals.take_lapsing(deadline + LEASE).is_empty(),
            "told once"
        );
        assert_eq!(renewals.deadline(), None);
        assert_eq!(renewals.sites().count(), 1, "it may still come back");
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_asked_for_and_never_backwards() {
        let began = Instant::now();
        let mut renewals = renewals(began);
        let asked = began + LEASE / 3;
        assert!(!renewals.renewed(&site(), asked));
        assert!(!renewals.renewed(&site(), began));
        assert_eq!(renewals.deadline(), Some(asked + renewals.patience()));
        renewals.take_lapsing(began + 2 * LEASE);
        assert!(renewals.renewed(&site(), began + 2 * LEASE));
        assert!(!renewals.renewed(&site(), began + 2 * LEASE));
        assert!(renewals.deadline().is_some());
    }

    #[test]
    fn what_has_ended_is_neither_renewed_nor_missed() {
        let began = Instant::now();
        let mut renewals = renewals(began);
        assert!(renewals.ended(&site()));
        assert!(!renewals.ended(&site()));
        assert!(!renewals.renewed(&site(), began + LEASE));
        assert_eq!(renewals.sites().count(), 0);
        assert_eq!(renewals.deadline(), None);
        assert!(!renewals.ended(&"elsewhere".parse().unwrap()));
    }
}
