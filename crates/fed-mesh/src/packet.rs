//! The little that a router reads of an inner packet.

use std::net::Ipv6Addr;

const HEADER: usize = 40;

/// The addresses of an inner IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
}

/// Reads the addresses; `None` where the bytes are not exactly one IPv6 packet (RFC 8200,
/// section 3). Jumbograms, whose length field is zero, cannot occur below their MTU.
pub(crate) fn addresses(packet: &[u8]) -> Option<Addresses> {
    let header: &[u8; HEADER] = packet.first_chunk()?;
    let version = header[0] >> 4;
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if version != 6 || HEADER + payload != packet.len() {
        return None;
    }
    Some(Addresses {
        source: address(&header[8..24])?,
        destination: address(&header[24..40])?,
    })
}

fn address(bytes: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x60, 0, 0, 0, length[0], length[1], 59, 64];
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(payload);
        bytes
    }

    proptest! {
        #[test]
        fn reads_what_was_written(source: u128, destination: u128, payload: Vec<u8>) {
            let (source, destination) = (source.into(), destination.into());
            let mut bytes = packet(source, destination, &payload);
            prop_assert_eq!(addresses(&bytes), Some(Addresses { source, destination }));
            bytes.push(0);
            prop_assert_eq!(addresses(&bytes), None);
            bytes.truncate(bytes.len() - 2);
            prop_assert_eq!(addresses(&bytes), None);
        }

        #[test]
        fn other_versions_are_refused(version in 0u8..16) {
            let mut bytes = packet(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, &[]);
            bytes[0] = version << 4;
            prop_assert_eq!(addresses(&bytes).is_some(), version == 6);
        }
    }
}
