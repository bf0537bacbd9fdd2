//! What routers say to one another inside a session: questions whether a path works, and answers.
//!
//! A control message is an inner IPv6 packet between two link-local addresses that no peer can own,
//! with the next header 253 (for experiments, RFC 3692) and this payload:
//!
//! ```text
//!  0      1      2      3      4 … 11
//! +------+------+------+------+----------------+---------------+
//! | 'f'  | 'e'  | 'd'  | kind | number         | any padding   |
//! +------+------+------+------+----------------+---------------+
//! ```
//!
//! A ping (kind 1) goes by the path that its sender uses, and a probe (kind 3) by another one, which
//! it may come to use. Both are answered by a pong (kind 2) with their number, by the path on which
//! they came. A probe is as long as any path is to carry, and so is its pong: a path that does not,
//! does not answer.
//! A WireGuard router that is not ours drops the packet, whose source is not allowed to its peer.

use std::net::Ipv6Addr;

/// The length of a control message without padding, in bytes.
pub(crate) const LENGTH: usize = HEADER + 12;

const HEADER: usize = 40;
const EXPERIMENT: u8 = 253;
const MAGIC: [u8; 3] = *b"fed";
const FROM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xfed, 1);
const TO: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xfed, 2);

/// A control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Asks whether the path works that its sender uses.
    Ping(u64),
    /// It does: the ping or probe of this number came.
    Pong(u64),
    /// Asks whether another path works.
    Probe(u64),
}

impl Control {
    /// Reads a control message; `None` where the packet is another, or malformed.
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        let (header, payload) = packet.split_first_chunk::<HEADER>()?;
        // One byte tells nearly every packet apart.
        if header[6] != EXPERIMENT || header[8..24] != FROM.octets() || header[24..] != TO.octets()
        {
            return None;
        }
        let (magic, rest) = payload.split_first_chunk::<3>()?;
        let (kind, rest) = rest.split_first()?;
        let number = u64::from_be_bytes(*rest.first_chunk()?);
        match (*magic == MAGIC, kind) {
            (true, 1) => Some(Self::Ping(number)),
            (true, 2) => Some(Self::Pong(number)),
            (true, 3) => Some(Self::Probe(number)),
            _ => None,
        }
    }

    /// The packet, padded to `length` bytes where it is shorter.
    pub(crate) fn padded(self, length: usize) -> Vec<u8> {
        let mut packet = self.packet().to_vec();
        packet.resize(length.max(LENGTH), 0);
        let payload = u16::try_from(packet.len() - HEADER).expect("below 64 KiB");
        packet[4..6].copy_from_slice(&payload.to_be_bytes());
        packet
    }

    /// The packet.
    pub(crate) fn packet(self) -> [u8; LENGTH] {
        let (kind, number) = match self {
            Self::Ping(number) => (1, number),
            Self::Pong(number) => (2, number),
            Self::Probe(number) => (3, number),
        };
        let mut packet = [0; LENGTH];
        packet[0] = 0x60;
        packet[5] = 12;
        packet[6] = EXPERIMENT;
        packet[7] = 1;
        packet[8..24].copy_from_slice(&FROM.octets());
        packet[24..HEADER].copy_from_slice(&TO.octets());
        packet[HEADER..HEADER + 3].copy_from_slice(&MAGIC);
        packet[HEADER + 3] = kind;
        packet[HEADER + 4..].copy_from_slice(&number.to_be_bytes());
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reads_what_was_written(number: u64, padding in 0usize..1200) {
            for control in [Control::Ping(number), Control::Pong(number), Control::Probe(number)] {
                let mut packet = control.packet().to_vec();
                prop_assert!(crate::packet::addresses(&packet).is_some());
                packet.resize(LENGTH + padding, 0);
                prop_assert_eq!(Control::read(&packet), Some(control));
                let padded = control.padded(LENGTH + padding);
                prop_assert_eq!(padded.len(), LENGTH + padding);
                prop_assert!(crate::packet::addresses(&padded).is_some());
                prop_assert_eq!(Control::read(&padded), Some(control));
                packet.truncate(LENGTH - 1);
                prop_assert_eq!(Control::read(&packet), None);
            }
        }

        #[test]
        fn a_damaged_header_is_another_packet(at in 8usize..44, bit in 0u8..8) {
            let mut packet = Control::Ping(7).packet();
            packet[at] ^= 1 << bit;
            // The lowest bits of the kind make it another one, or none.
            prop_assert!(Control::read(&packet) != Some(Control::Ping(7)));
        }

        #[test]
        fn any_bytes_are_read_or_refused(packet: Vec<u8>) {
            prop_assert_eq!(Control::read(&packet), None);
        }
    }
}
