//! What a router looks like from outside: the endpoints that its NAT gives it.

use std::net::SocketAddr;

use crate::PublicKey;
use crate::path::canonical;

/// Where one router sees another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Who sees it.
    pub by: PublicKey,
    /// Where: the `endpoint` of a [`crate::PeerStatus`] that has been heard.
    pub at: SocketAddr,
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
