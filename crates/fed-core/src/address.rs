//! Addresses of the data plane: one random ULA /48 per federation (RFC 4193).

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::MemberId;

/// TCP port of the Dask scheduler on the data plane.
pub const SCHEDULER_PORT: u16 = 8786;

/// A federation, told by the 40 random bits of its /48: written as ten hexadecimal digits.
///
/// The identity and the address block are one thing, so that a log line with an address says which
/// federation it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FederationId([u8; 5]);

/// A text that is not ten lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("federation id {0:?} is not ten lower-case hexadecimal digits")]
pub struct ParseFederationIdError(String);

impl FederationId {
    /// Makes an id of 40 bits, which the caller draws at random (RFC 4193, section 3.2.1).
    pub const fn from_random(bits: [u8; 5]) -> Self {
        Self(bits)
    }

    /// Returns the first address of the federation's /48.
    pub fn prefix(self) -> Ipv6Addr {
        self.address(0, 0)
    }

    /// Returns the first address of a member's /64: what WireGuard's allowed IPs name.
    pub fn subnet(self, member: MemberId) -> Ipv6Addr {
        self.address(member.number(), 0)
    }

    /// Returns the address of a member's router. The scheduler listens on the operator's.
    pub fn router(self, member: MemberId) -> Ipv6Addr {
        self.address(member.number(), 1)
    }

    fn address(self, member: u16, node: u16) -> Ipv6Addr {
        let [a, b, c, d, e] = self.0;
        Ipv6Addr::new(
            u16::from_be_bytes([0xfd, a]),
            u16::from_be_bytes([b, c]),
            u16::from_be_bytes([d, e]),
            member,
            0,
            0,
            0,
            node,
        )
    }
}

impl fmt::Display for FederationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for FederationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for FederationId {
    type Err = ParseFederationIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseFederationIdError(text.to_owned());
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 10 || !text.bytes().all(lower) {
            return Err(wrong());
        }
        let value = u64::from_str_radix(text, 16).map_err(|_| wrong())?;
        let [_, _, _, bits @ ..] = value.to_be_bytes();
        Ok(Self(bits))
    }
}

impl TryFrom<String> for FederationId {
    type Error = ParseFederationIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<FederationId> for String {
    fn from(id: FederationId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_carry_id_site_and_node() {
        let id: FederationId = "0123456789".parse().unwrap();
        assert_eq!(id.prefix(), "fd01:2345:6789::".parse::<Ipv6Addr>().unwrap());
        assert_eq!(
            id.router(MemberId::OPERATOR),
            "fd01:2345:6789::1".parse::<Ipv6Addr>().unwrap()
        );
        assert_eq!(
            id.router(MemberId::site(2)),
            "fd01:2345:6789:2::1".parse::<Ipv6Addr>().unwrap()
        );
    }

    #[test]
    fn refuses_other_texts() {
        for text in [
            "",
            "012345678",
            "01234567890",
            "012345678G",
            "+123456789",
            "ABCDEF0123",
        ] {
            assert!(text.parse::<FederationId>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trips_and_stays_in_unique_local_space(bits: [u8; 5], site in 1u16..) {
            let id = FederationId::from_random(bits);
            prop_assert_eq!(id.to_string().parse::<FederationId>().unwrap(), id);
            let router = id.router(MemberId::site(site));
            prop_assert_eq!(router.octets()[0], 0xfd);
            prop_assert_eq!(&router.octets()[..6], &id.prefix().octets()[..6]);
        }
    }
}
