//! Curve25519 keys, written as WireGuard writes them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519;

/// The secret half of an identity. It has no `Display`, and `Debug` shows the public half.
#[derive(Clone)]
pub struct PrivateKey(x25519::StaticSecret);

impl PrivateKey {
    /// Makes a key from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(rand::random())
    }

    /// Takes 32 secret bytes as a key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(x25519::StaticSecret::from(bytes))
    }

    /// The 32 secret bytes, for handing the key to another process of this host.
    #[must_use]
    pub fn expose_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.0).to_bytes())
    }

    pub(crate) fn secret(&self) -> &x25519::StaticSecret {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public_key())
    }
}

/// The public half of an identity: 44 characters of base64, as `wg` prints it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Takes 32 bytes as a key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        let bytes = STANDARD
            .decode(text)
            .map_err(|source| ParseKeyError::NotBase64 { source })?;
        let length = bytes.len();
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| ParseKeyError::WrongLength { length })
    }
}

/// Why a text is not a public key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    /// The text is not base64.
    #[error("a WireGuard public key is 44 characters of base64 ending in '='")]
    NotBase64 {
        /// Where decoding failed.
        source: base64::DecodeError,
    },
    /// The text is base64 of something else.
    #[error("a WireGuard public key holds 32 bytes, and this text holds {length}")]
    WrongLength {
        /// The number of bytes decoded.
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748, section 6.1.
    #[test]
    fn public_key_of_a_known_private_key() {
        let alice: [u8; 32] = [
            0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2,
            0x66, 0x45, 0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5,
            0x1d, 0xb9, 0x2c, 0x2a,
        ];
        assert_eq!(
            PrivateKey::from_bytes(alice).public_key().to_string(),
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        );
    }

    #[test]
    fn text_round_trip_and_refusals() {
        let key = PrivateKey::generate().public_key();
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(
            "AAAA".parse::<PublicKey>(),
            Err(ParseKeyError::WrongLength { length: 3 })
        );
        assert!(matches!(
            "no key".parse::<PublicKey>(),
            Err(ParseKeyError::NotBase64 { .. })
        ));
    }

    #[test]
    fn debug_hides_the_secret() {
        let key = PrivateKey::from_bytes([7; 32]);
        let text = format!("{key:?}");
        assert!(text.contains(&key.public_key().to_string()));
        assert!(!text.contains(&STANDARD.encode(key.expose_bytes())));
        assert!(!text.contains("7, 7"));
    }
}
