//! What a router looks like from outside: the endpoints that its NAT gives it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::path::canonical;
use crate::{PublicKey, UNHEARD_MAX};

/// Where one router sees another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Who sees it.
    pub by: PublicKey,
    /// Where: the `endpoint` of a [`crate::PeerStatus`] that has been heard.
    pub at: SocketAddr,
}

impl Sighting {
    /// What router `by` says of another, of whose [`crate::PeerStatus`] these are two values.
    ///
    /// Nothing if it has not heard the other one, which may have moved, for [`UNHEARD_MAX`], nor if it
    /// reaches it through this host's loopback: that is another way than UDP, or none.
    #[must_use]
    pub fn new(
        by: PublicKey,
        endpoint: Option<SocketAddr>,
        last_heard: Option<Duration>,
    ) -> Option<Self> {
        let is_recent = last_heard.is_some_and(|ago| ago < UNHEARD_MAX);
        let at = endpoint.filter(|at| is_recent && !at.ip().is_loopback())?;
        Some(Self { by, at })
    }
}

/// How a router's datagrams get their source addresses (RFC 4787, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Fewer than two routers see it, so that nothing can be told.
    Unknown,
    /// All see it at one address, where others may reach it too.
    EndpointIndependent,
    /// Each sees it at another port or address ("symmetric NAT"): what one sees helps no other one.
    EndpointDependent,
}

/// What the others see of one router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reflexive {
    /// How its NAT maps. Of a router that is seen by IPv4 and IPv6, the worse of both.
    pub mapping: Mapping,
    /// The addresses seen, those that most others see first, each once.
    pub addresses: Vec<SocketAddr>,
}

impl Reflexive {
    /// Draws together what others see of one router.
    #[must_use]
    pub fn of(sightings: &[Sighting]) -> Self {
        let mut counted: Vec<(SocketAddr, usize)> = Vec::new();
        for at in sightings.iter().map(|sighting| canonical(sighting.at)) {
            match counted.iter_mut().find(|(known, _)| *known == at) {
                Some((_, count)) => *count += 1,
                None => counted.push((at, 1)),
            }
        }
        // Equal counts in a fixed order, so that nothing seems to change when nothing does.
        counted.sort_by_key(|(at, count)| (std::cmp::Reverse(*count), *at));
        let families = [true, false].map(|v6| {
            let of_family = counted.iter().filter(|(at, _)| at.is_ipv6() == v6);
            let (distinct, total) =
                of_family.fold((0, 0), |(n, sum), (_, count)| (n + 1, sum + count));
            match (distinct, total) {
                (_, 0 | 1) => Mapping::Unknown,
                (1, _) => Mapping::EndpointIndependent,
                _ => Mapping::EndpointDependent,
            }
        });
        let mapping = [Mapping::EndpointDependent, Mapping::EndpointIndependent]
            .into_iter()
            .find(|mapping| families.contains(mapping))
            .unwrap_or(Mapping::Unknown);
        Self {
            mapping,
            addresses: counted.into_iter().map(|(at, _)| at).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(addresses: &[&str]) -> Reflexive {
        let sightings = addresses.iter().zip(0..).map(|(at, by)| Sighting {
            by: PublicKey::from_bytes([by; 32]),
            at: at.parse().unwrap(),
        });
        Reflexive::of(&sightings.collect::<Vec<_>>())
    }

    #[test]
    fn who_has_not_been_heard_for_long_is_not_seen() {
        let at: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let by = PublicKey::from_bytes([1; 32]);
        let sighting =
            |at, seconds: Option<u64>| Sighting::new(by, at, seconds.map(Duration::from_secs));
        // A keepalive may be due every 25 s.
        assert_eq!(sighting(Some(at), Some(26)), Some(Sighting { by, at }));
        assert_eq!(sighting(Some(at), Some(35)), None);
        assert_eq!(sighting(Some(at), None), None);
        assert_eq!(sighting(None, Some(0)), None);
        let bridge = "127.0.0.1:1".parse().unwrap();
        assert_eq!(sighting(Some(bridge), Some(0)), None);
    }

    #[test]
    fn one_port_for_all_is_told_from_one_for_each() {
        assert_eq!(seen(&[]).mapping, Mapping::Unknown);
        assert_eq!(seen(&["192.0.2.1:1"]).mapping, Mapping::Unknown);
        let same = seen(&["192.0.2.1:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"]);
        assert_eq!(same.mapping, Mapping::EndpointIndependent);
        assert_eq!(same.addresses, ["192.0.2.1:1".parse().unwrap()]);
        let other = seen(&["192.0.2.1:7", "192.0.2.1:2", "192.0.2.1:7"]);
        assert_eq!(other.mapping, Mapping::EndpointDependent);
        let addresses = ["192.0.2.1:7", "192.0.2.1:2"].map(|at| at.parse().unwrap());
        assert_eq!(other.addresses, addresses);
        // One of each family says nothing yet.
        assert_eq!(
            seen(&["192.0.2.1:1", "[2001:db8::1]:1"]).mapping,
            Mapping::Unknown
        );
    }
}
