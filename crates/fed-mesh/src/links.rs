//! Which routers this one reaches straight, for relaying in both roles.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::frame::{Frame, HEADER, RouterId};
use crate::{DropReason, PublicKey, RELAY_BURST, RELAY_RATE, Traffic};

/// The routers of the federation, and where those are that are reached straight.
///
/// It has a lock of its own, which is taken last: a peer is locked already while it asks here.
#[derive(Debug, Default)]
pub(crate) struct Links {
    routers: HashMap<RouterId, Linked>,
    /// Who was heard where. Two routers may have been at one address, one after the other.
    by_address: BTreeSet<(SocketAddr, PublicKey)>,
    /// The routers that are reached straight, in the order of their keys.
    relays: Vec<PublicKey>,
}

#[derive(Debug)]
struct Linked {
    key: PublicKey,
    /// Where it is reached.
    address: Option<SocketAddr>,
    /// Where it was heard: a router may send from another address than it is reached at, for
    /// example by IPv6 and by IPv4.
    heard: Vec<SocketAddr>,
    budget: Mutex<Budget>,
}

/// What one router may have relayed: a token bucket of bytes.
#[derive(Debug)]
struct Budget {
    bytes: u64,
    filled: Option<Instant>,
    relayed: Traffic,
}

impl Budget {
    fn spend(&mut self, bytes: usize, now: Instant) -> bool {
        let filled = self.filled.replace(now).unwrap_or(now);
        let elapsed = now
            .saturating_duration_since(filled)
            .min(Duration::from_secs(60));
        let earned = elapsed.as_micros() * u128::from(RELAY_RATE) / 1_000_000;
        let earned = u64::try_from(earned).unwrap_or(RELAY_BURST);
        self.bytes = self.bytes.saturating_add(earned).min(RELAY_BURST);
        match self.bytes.checked_sub(bytes as u64) {
            Some(rest) => {
                self.bytes = rest;
                self.relayed.add(bytes);
                true
            }
            None => false,
        }
    }
}

impl Links {
    /// Takes a new set of routers; those that stay keep where they are.
    pub(crate) fn set_members(&mut self, keys: impl Iterator<Item = PublicKey>) {
        let mut before = std::mem::take(&mut self.routers);
        for key in keys {
            let id = RouterId::from(key);
            let linked = before.remove(&id).unwrap_or_else(|| Linked {
                key,
                address: None,
                heard: Vec::new(),
                budget: Mutex::new(Budget {
                    bytes: RELAY_BURST,
                    filled: None,
                    relayed: Traffic::default(),
                }),
            });
            self.routers.insert(id, linked);
        }
        self.index();
    }

    /// Notes where a router is reached straight, or that it no longer is.
    pub(crate) fn set(&mut self, key: PublicKey, address: Option<SocketAddr>) {
        if let Some(linked) = self.routers.get_mut(&RouterId::from(key)) {
            linked.address = address;
            match (self.relays.binary_search(&key), address) {
                (Err(place), Some(_)) => self.relays.insert(place, key),
                (Ok(place), None) => drop(self.relays.remove(place)),
                (Ok(_), Some(_)) | (Err(_), None) => {}
            }
        }
    }

    /// Notes the addresses from which authentic datagrams of a router came lately.
    pub(crate) fn set_heard(&mut self, key: PublicKey, addresses: &[SocketAddr]) {
        if let Some(linked) = self.routers.get_mut(&RouterId::from(key)) {
            for gone in std::mem::replace(&mut linked.heard, addresses.to_vec()) {
                self.by_address.remove(&(gone, key));
            }
            let heard = addresses.iter().map(|at| (*at, key));
            self.by_address.extend(heard);
        }
    }

    fn index(&mut self) {
        let routers = self.routers.values();
        let heard = routers.flat_map(|linked| linked.heard.iter().map(|at| (*at, linked.key)));
        self.by_address = heard.collect();
        let straight = self
            .routers
            .values()
            .filter(|linked| linked.address.is_some());
        self.relays = straight.map(|linked| linked.key).collect();
        self.relays.sort_unstable();
    }

    /// The routers that could relay, in the order of their keys.
    pub(crate) fn relays(&self) -> &[PublicKey] {
        &self.relays
    }

    /// The router of this name.
    pub(crate) fn key(&self, id: RouterId) -> Option<PublicKey> {
        Some(self.routers.get(&id)?.key)
    }

    /// Where a router is reached straight.
    pub(crate) fn address(&self, key: PublicKey) -> Option<SocketAddr> {
        self.routers.get(&RouterId::from(key))?.address
    }

    /// The router that was heard at this address.
    pub(crate) fn router_at(&self, address: SocketAddr) -> Option<PublicKey> {
        let least = PublicKey::from_bytes([0; 32]);
        let (at, key) = self.by_address.range((address, least)..).next()?;
        (*at == address).then_some(*key)
    }

    /// Where to pass on a frame that came from `address`.
    ///
    /// # Errors
    /// The frame is not from where its source was heard, is for nobody who is reached straight, or is
    /// too much.
    pub(crate) fn forward(
        &self,
        address: SocketAddr,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<SocketAddr, DropReason> {
        let source = self.routers.get(&frame.from);
        let from =
            source.filter(|source| source.heard.contains(&address) && frame.from != frame.to);
        let to = self.routers.get(&frame.to).and_then(|to| to.address);
        let (Some(from), Some(to)) = (from, to) else {
            return Err(DropReason::RelayRefused);
        };
        let mut budget = from.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.spend(HEADER + frame.message.len(), now) {
            Ok(to)
        } else {
            Err(DropReason::RelayBusy)
        }
    }

    /// What has been relayed for a router so far.
    pub(crate) fn relayed(&self, key: PublicKey) -> Traffic {
        let linked = self.routers.get(&RouterId::from(key));
        linked.map_or_else(Traffic::default, |linked| {
            let budget = linked.budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.relayed
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32])
    }

    fn at(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 51_820))
    }

    fn frame(to: u8, from: u8) -> Frame<'static> {
        Frame {
            to: key(to).into(),
            from: key(from).into(),
            message: &[4; 1000],
        }
    }

    fn links() -> Links {
        let mut links = Links::default();
        links.set_members([1, 2, 3].into_iter().map(key));
        for number in [1, 2] {
            links.set(key(number), Some(at(number)));
            links.set_heard(key(number), &[at(number), at(100 + number)]);
        }
        links.set_heard(key(3), &[at(3)]);
        links
    }

    #[test]
    fn frames_pass_between_routers_that_are_reached_straight_only() {
        let links = links();
        let now = Instant::now();
        assert_eq!(links.forward(at(1), &frame(2, 1), now), Ok(at(2)));
        assert_eq!(links.forward(at(101), &frame(2, 1), now), Ok(at(2)));
        let refused = Err(DropReason::RelayRefused);
        // Not from where its source is; from nobody; to nobody; to one not reached; to itself.
        assert_eq!(links.forward(at(2), &frame(2, 1), now), refused);
        assert_eq!(links.forward(at(9), &frame(2, 1), now), refused);
        assert_eq!(links.forward(at(1), &frame(9, 1), now), refused);
        assert_eq!(links.forward(at(1), &frame(3, 1), now), refused);
        assert_eq!(links.forward(at(1), &frame(1, 1), now), refused);
        assert_eq!(links.relayed(key(1)).packets, 2);
        assert_eq!(links.router_at(at(102)), Some(key(2)));
        assert_eq!(links.relays(), [key(1), key(2)]);
    }

    #[test]
    fn no_router_has_more_relayed_than_its_rate() {
        let links = links();
        let start = Instant::now();
        let passed = |now| {
            let mut bytes = 0;
            while links.forward(at(1), &frame(2, 1), now).is_ok() {
                bytes += 1016;
            }
            bytes
        };
        let near = |bytes: u64, expected: u64| bytes.abs_diff(expected) <= 1016;
        assert!(near(passed(start), RELAY_BURST));
        assert_eq!(
            links.forward(at(1), &frame(2, 1), start),
            Err(DropReason::RelayBusy)
        );
        let later = start + Duration::from_millis(10);
        assert!(near(passed(later), RELAY_RATE / 100));
        // Others have budgets of their own.
        assert!(links.forward(at(2), &frame(1, 2), later).is_ok());
    }

    #[test]
    fn who_is_removed_is_unknown() {
        let mut links = links();
        links.set_members([1, 3].into_iter().map(key));
        let now = Instant::now();
        assert_eq!(
            links.forward(at(1), &frame(2, 1), now),
            Err(DropReason::RelayRefused)
        );
        assert_eq!(links.router_at(at(2)), None);
        assert_eq!(links.router_at(at(1)), Some(key(1)));
        assert_eq!(links.relays(), [key(1)]);
    }

    #[test]
    fn who_moves_is_known_where_it_is_and_leaves_others_where_they_are() {
        let mut links = links();
        // The second has been where the first is now, and the third comes there too.
        links.set_heard(key(3), &[at(101), at(3)]);
        links.set_heard(key(1), &[at(7)]);
        let found = [7, 101, 1, 3].map(|host| links.router_at(at(host)));
        assert_eq!(found, [Some(key(1)), Some(key(3)), None, Some(key(3))]);
        links.set(key(3), Some(at(3)));
        links.set(key(1), None);
        links.set(key(1), None);
        links.set(key(2), Some(at(8)));
        assert_eq!(links.relays(), [key(2), key(3)]);
        assert_eq!(links.address(key(2)), Some(at(8)));
        links.set(key(1), Some(at(7)));
        assert_eq!(links.relays(), [key(1), key(2), key(3)]);
    }
}
