//! Limits on what handshakes cost: all together, and those of each source.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::Origin;
use crate::config::{HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SOURCE, SOURCES_MAX};

/// What a bucket that is full holds: one second's worth.
const BURST: Duration = Duration::from_secs(1);

/// How often buckets that are full again are put away.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The prefix of an IPv6 address by which its network is known: whoever has one address of it has
/// all.
const NETWORK: u128 = !0 << 64;

/// A token bucket for each source: [`HANDSHAKES_PER_SOURCE`] a second, and as many at once
/// (WireGuard paper, section 5.3). Of IPv6 a network of 64 bits is one source. What comes by way of
/// a relay has a source in each peer that it relays for, and each bridge is one, so that no peer uses
/// up what the others have.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// When each bucket is full again: this says how many tokens are in it.
    full: HashMap<Origin, Instant>,
    swept: Option<Instant>,
    /// When the second began in which so many messages have come from all sources together.
    second: Option<Instant>,
    seen: u64,
}

impl Throttle {
    /// Counts a message; whether there are more than [`HANDSHAKES_PER_SECOND`], so that each is to
    /// prove its source before it costs more.
    pub(crate) fn is_crowded(&mut self, now: Instant) -> bool {
        let this = |second: Instant| now.saturating_duration_since(second) < BURST;
        if !self.second.is_some_and(this) {
            (self.second, self.seen) = (Some(now), 0);
        }
        self.seen += 1;
        self.seen > HANDSHAKES_PER_SECOND
    }

    /// Takes a token out of the bucket of a source; whether there was one.
    pub(crate) fn admits(&mut self, from: Origin, now: Instant) -> bool {
        let source = source(from);
        self.sweep(now);
        if self.full.len() >= SOURCES_MAX && !self.full.contains_key(&source) {
            return false;
        }
        let full = self.full.entry(source).or_insert(now);
        let next = (*full).max(now) + BURST / HANDSHAKES_PER_SOURCE;
        let admitted = next.saturating_duration_since(now) <= BURST;
        if admitted {
            *full = next;
        }
        admitted
    }

    fn sweep(&mut self, now: Instant) {
        let recent = |at: Instant| now.saturating_duration_since(at) < SWEEP_EVERY;
        if !self.swept.is_some_and(recent) {
            self.swept = Some(now);
            self.full.retain(|_, full| *full > now);
        }
    }
}

fn source(from: Origin) -> Origin {
    let hop = match from.hop.ip() {
        // Each port of this host's own loopback is a bridge to one peer.
        here if here.is_loopback() => from.hop,
        IpAddr::V6(address) => {
            let network = Ipv6Addr::from_bits(address.to_bits() & NETWORK);
            SocketAddr::from((network, 0))
        }
        address @ IpAddr::V4(_) => SocketAddr::from((address, 0)),
    };
    Origin { hop, ..from }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::PublicKey;

    fn at(hop: impl Into<IpAddr>, port: u16) -> Origin {
        Origin {
            hop: SocketAddr::new(hop.into(), port),
            sender: None,
        }
    }

    fn v4(number: u32) -> Origin {
        at(number.to_be_bytes(), 51_820)
    }

    fn admitted(throttle: &mut Throttle, from: Origin, now: Instant) -> u32 {
        (0..1000)
            .map(|_| u32::from(throttle.admits(from, now)))
            .sum()
    }

    #[test]
    fn each_source_has_a_bucket_of_its_own_that_fills_again() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        assert_eq!(admitted(&mut throttle, v4(1), start), HANDSHAKES_PER_SOURCE);
        assert_eq!(admitted(&mut throttle, v4(2), start), HANDSHAKES_PER_SOURCE);
        let quarter = HANDSHAKES_PER_SOURCE / 4;
        assert_eq!(admitted(&mut throttle, v4(1), start + BURST / 4), quarter);
        let later = start + 100 * BURST;
        assert_eq!(admitted(&mut throttle, v4(1), later), HANDSHAKES_PER_SOURCE);
    }

    #[test]
    fn a_network_of_64_bits_is_one_source() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        let at = |text: &str| at(text.parse::<IpAddr>().unwrap(), 51_820);
        assert_eq!(
            admitted(&mut throttle, at("2001:db8:0:1::1"), now),
            HANDSHAKES_PER_SOURCE
        );
        assert!(!throttle.admits(at("2001:db8:0:1:ffff::2"), now));
        assert!(throttle.admits(at("2001:db8:0:2::1"), now));
    }

    #[test]
    fn a_port_is_a_source_on_loopback_alone() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        for (host, other_port_too) in [([127, 0, 0, 1], true), ([192, 0, 2, 1], false)] {
            assert_eq!(
                admitted(&mut throttle, at(host, 1), now),
                HANDSHAKES_PER_SOURCE
            );
            assert_eq!(throttle.admits(at(host, 2), now), other_port_too);
        }
    }

    #[test]
    fn each_peer_behind_a_relay_is_a_source() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        let relayed = |number| Origin {
            sender: Some(PublicKey::from_bytes([number; 32])),
            ..v4(1)
        };
        for origin in [relayed(1), relayed(2), v4(1)] {
            assert_eq!(admitted(&mut throttle, origin, now), HANDSHAKES_PER_SOURCE);
            assert!(!throttle.admits(origin, now));
        }
    }

    #[test]
    fn no_more_sources_are_kept_than_there_is_room_for() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        let sources = u32::try_from(SOURCES_MAX).unwrap();
        let taken = (0..2 * sources).filter(|number| throttle.admits(v4(*number), start));
        assert_eq!(taken.count(), SOURCES_MAX);
        // Those that have a place keep it, and once they are quiet others take it.
        assert!(throttle.admits(v4(0), start));
        let later = start + SWEEP_EVERY;
        assert!(throttle.admits(v4(sources), later));
        assert_eq!(throttle.full.len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_the_times_no_source_has_more_than_its_rate(
            gaps in proptest::collection::vec(0u64..200, 1..400),
        ) {
            let start = Instant::now();
            let mut throttle = Throttle::default();
            let (mut elapsed, mut passed) = (Duration::ZERO, 0);
            for gap in gaps {
                elapsed += Duration::from_millis(gap);
                passed += u32::from(throttle.admits(v4(1), start + elapsed));
                let most = (elapsed + BURST).as_millis() * u128::from(HANDSHAKES_PER_SOURCE) / 1000;
                prop_assert!(u128::from(passed) <= most);
            }
        }
    }
}
