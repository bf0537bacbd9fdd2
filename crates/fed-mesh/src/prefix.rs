//! Blocks of IPv6 addresses.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A block of IPv6 addresses, such as `fd00:1:2::/48`. Bits behind the length are always zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6Prefix {
    addr: u128,
    len: u8,
}

impl Ipv6Prefix {
    /// The block of `len` leading bits (0 to 128) around `addr`; bits behind them are cleared.
    ///
    /// # Errors
    /// A length above 128.
    pub fn new(addr: Ipv6Addr, len: u8) -> Result<Self, ParsePrefixError> {
        if len > 128 {
            return Err(ParsePrefixError::Length {
                text: len.to_string(),
            });
        }
        Ok(Self {
            addr: u128::from(addr) & mask(len),
            len,
        })
    }

    /// The block that holds one address.
    #[must_use]
    pub fn host(addr: Ipv6Addr) -> Self {
        Self {
            addr: u128::from(addr),
            len: 128,
        }
    }

    /// The first address of the block.
    #[must_use]
    pub fn addr(&self) -> Ipv6Addr {
        self.addr.into()
    }

    /// The number of leading bits, 0 to 128.
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, no container")]
    #[must_use]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether `addr` lies in the block.
    #[must_use]
    pub fn contains(&self, addr: Ipv6Addr) -> bool {
        u128::from(addr) & mask(self.len) == self.addr
    }
}

/// The `len` leading bits set; `len` is 128 at most.
pub(crate) fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.len)
    }
}

impl fmt::Debug for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ipv6Prefix({self})")
    }
}

impl FromStr for Ipv6Prefix {
    type Err = ParsePrefixError;

    /// Reads `address/length`, or an address alone as a block of one.
    fn from_str(text: &str) -> Result<Self, ParsePrefixError> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr = addr
            .parse()
            .map_err(|source| ParsePrefixError::Address { source })?;
        match len {
            None => Ok(Self::host(addr)),
            Some(len) => match len.parse() {
                Ok(bits) => Self::new(addr, bits),
                Err(_) => Err(ParsePrefixError::Length { text: len.into() }),
            },
        }
    }
}

/// Why a text is not a block of IPv6 addresses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePrefixError {
    /// The part before the slash.
    #[error("a prefix is an IPv6 address, a slash and a length, such as fd00::/48")]
    Address {
        /// What is wrong with the address.
        source: std::net::AddrParseError,
    },
    /// The part after the slash.
    #[error("the length of an IPv6 prefix is a number from 0 to 128, not '{text}'")]
    Length {
        /// What stood there.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let prefix: Ipv6Prefix = "fd00:1:2:3::9/64".parse().unwrap();
        assert_eq!(prefix.to_string(), "fd00:1:2:3::/64");
        assert_eq!("fd00::1".parse::<Ipv6Prefix>().unwrap().len(), 128);
        assert!(matches!(
            "fd00::/129".parse::<Ipv6Prefix>(),
            Err(ParsePrefixError::Length { text }) if text == "129"
        ));
        assert!(matches!(
            "fd00::/x".parse::<Ipv6Prefix>(),
            Err(ParsePrefixError::Length { text }) if text == "x"
        ));
        assert!(matches!(
            "10.0.0.0/8".parse::<Ipv6Prefix>(),
            Err(ParsePrefixError::Address { .. })
        ));
    }

    #[test]
    fn contains_at_the_edges() {
        let prefix: Ipv6Prefix = "fd00:0:0:4::/62".parse().unwrap();
        assert!(prefix.contains("fd00:0:0:4::".parse().unwrap()));
        assert!(prefix.contains("fd00:0:0:7:ffff:ffff:ffff:ffff".parse().unwrap()));
        assert!(!prefix.contains("fd00:0:0:8::".parse().unwrap()));
        assert!(!prefix.contains("fd00:0:0:3:ffff:ffff:ffff:ffff".parse().unwrap()));
        let all: Ipv6Prefix = "::/0".parse().unwrap();
        assert!(all.contains("ffff::".parse().unwrap()));
        let one = Ipv6Prefix::host("fd00::1".parse().unwrap());
        assert!(one.contains("fd00::1".parse().unwrap()));
        assert!(!one.contains("fd00::2".parse().unwrap()));
    }
}
