//! A limited number of places, of which nobody can take those of the others.
//!
//! While there are free places, anybody may have any number. When there are none, whoever holds
//! most gives up the oldest of theirs, and that may be the one who comes: an equal part is everybody's
//! own. Does no IO: callers end what has to make room.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Whom a connection is counted for before it is known who is there: an IPv4 address, or the /64
/// of an IPv6 address, since one host may have every address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            address @ IpAddr::V4(_) => Self(address),
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Self(Ipv6Addr::from_bits(network).into())
            }
        }
    }
}

/// The places, each with its owner and what holds it.
#[derive(Debug)]
pub struct Shares<K, T> {
    most: usize,
    /// In the order in which they were taken.
    taken: Vec<(K, T)>,
}

impl<K: Copy + Ord, T> Shares<K, T> {
    /// Returns `most` free places.
    pub const fn new(most: usize) -> Self {
        Self {
            most,
            taken: Vec::new(),
        }
    }

    /// Whether whoever comes next gets a place. They do not if all are taken, by as many owners.
    pub fn has_room(&self) -> bool {
        self.taken.len() < self.most || self.largest().is_some()
    }

    /// Takes a place, which there is (see [`Self::has_room`]). Returns what must end for it, if none
    /// was free.
    pub fn take(&mut self, owner: K, holder: T) -> Option<T> {
        let full = self.taken.len() >= self.most;
        let displaced = if full { self.displace(&owner) } else { None };
        self.taken.push((owner, holder));
        displaced
    }

    /// Takes its place from the oldest of whoever holds most, if they are not fewer than the owner's.
    fn displace(&mut self, owner: &K) -> Option<T> {
        let (victim, most) = self.largest()?;
        let own = self.taken.iter().filter(|(each, _)| each == owner).count();
        let victim = if own < most { victim } else { *owner };
        let oldest = self.taken.iter().position(|(each, _)| *each == victim)?;
        Some(self.taken.remove(oldest).1)
    }

    /// Frees the place that is held by what `is_it` recognises; does nothing if there is none.
    pub fn give_back(&mut self, is_it: impl Fn(&T) -> bool) {
        self.taken.retain(|(_, holder)| !is_it(holder));
    }

    /// Who holds most places, and how many, if more than one; of several, who came first.
    fn largest(&self) -> Option<(K, usize)> {
        let mut counts = BTreeMap::<K, usize>::new();
        for (owner, _) in &self.taken {
            *counts.entry(*owner).or_default() += 1;
        }
        let most = *counts.values().max().filter(|most| **most > 1)?;
        let mut owners = self.taken.iter().map(|(owner, _)| *owner);
        let first = owners.find(|owner| counts[owner] == most)?;
        Some((first, most))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_source_is_an_address_or_a_network_of_64_bits() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_ne!(source("::ffff:10.0.0.1"), source("::ffff:10.0.0.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    #[test]
    fn whoever_holds_most_makes_room_with_the_oldest() {
        let mut shares = Shares::new(4);
        for holder in 0..4 {
            assert_eq!(shares.take('a', holder), None);
        }
        assert_eq!(shares.take('b', 4), Some(0));
        assert_eq!(shares.take('b', 5), Some(1));
        // Of equals, who came first; but whoever has as many makes room for themselves.
        assert_eq!(shares.take('c', 6), Some(2));
        assert_eq!(shares.take('b', 7), Some(4));
        assert!(shares.has_room());
        shares.give_back(|holder| *holder == 5);
        assert_eq!(shares.take('d', 8), None);
        assert!(!shares.has_room());
    }

    proptest! {
        /// Whatever the others do, whoever asks for no more than an equal part keeps all of it.
        #[test]
        fn nobody_loses_an_equal_part(
            most in 1usize..12,
            steps in prop::collection::vec((0u8..5, any::<bool>()), 1..200),
        ) {
            let mut shares = Shares::new(most);
            let mut held = BTreeMap::<u8, Vec<usize>>::new();
            for (number, (owner, gives_back)) in steps.into_iter().enumerate() {
                let own = held.entry(owner).or_default();
                if gives_back {
                    if let Some(back) = own.pop() {
                        shares.give_back(|holder| *holder == back);
                    }
                } else if shares.has_room() {
                    if let Some(displaced) = shares.take(owner, number) {
                        let mut all = held.iter_mut();
                        let (victim, theirs) =
                            all.find(|(_, own)| own.contains(&displaced)).unwrap();
                        // There are five owners.
                        prop_assert!(*victim == owner || theirs.len() > most / 5);
                        prop_assert_eq!(theirs.remove(0), displaced);
                    }
                    held.entry(owner).or_default().push(number);
                }
                let all: usize = held.values().map(Vec::len).sum();
                prop_assert!(all <= most);
                prop_assert_eq!(all, shares.taken.len());
            }
        }
    }
}
