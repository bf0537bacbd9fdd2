//! The little that a router reads of an inner packet.

use std::net::Ipv6Addr;

use crate::MTU_MIN;

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

/// The next header of ICMPv6.
const ICMPV6: u8 = 58;

/// Tells the sender of `packet` that no more than `mtu` bytes fit: an ICMPv6 Packet Too Big (RFC
/// 4443, section 3.2), as if from the destination. `None` where a packet may not be answered so
/// (section 2.4, e): an ICMPv6 error, or one without a sender.
pub(crate) fn too_big(packet: &[u8], addresses: Addresses, mtu: usize) -> Option<Vec<u8>> {
    let is_error = packet[6] == ICMPV6 && packet.get(HEADER).is_none_or(|kind| *kind < 128);
    if is_error || addresses.source.is_unspecified() || addresses.source.is_multicast() {
        return None;
    }
    let quoted = &packet[..packet.len().min(MTU_MIN - HEADER - 8)];
    let mtu = u32::try_from(mtu).ok()?;
    let mut body = vec![2, 0, 0, 0];
    body.extend(mtu.to_be_bytes());
    body.extend(quoted);
    let length = u16::try_from(body.len()).ok()?.to_be_bytes();
    let ends = [addresses.destination, addresses.source].map(|address| address.octets());
    let sum = sum(ends.as_flattened()) + sum(&length) + u32::from(ICMPV6) + sum(&body);
    body[2..4].copy_from_slice(&checksum(sum));
    let mut answer = vec![0x60, 0, 0, 0, length[0], length[1], ICMPV6, 64];
    answer.extend(ends.as_flattened());
    answer.extend(body);
    Some(answer)
}

/// The sum of 16-bit words in network order. 2^16 of them fit.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

/// The Internet checksum (RFC 1071).
fn checksum(sum: u32) -> [u8; 2] {
    let folded = (sum >> 16) + (sum & 0xffff);
    let folded = (folded >> 16) + (folded & 0xffff);
    let low = u16::try_from(folded & 0xffff).expect("sixteen bits");
    (!low).to_be_bytes()
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
        fn a_packet_that_is_too_big_is_answered_in_its_sender_s_terms(
            source: u128, destination: u128, payload in proptest::collection::vec(any::<u8>(), 1240..3000),
        ) {
            let (source, destination) = (source.into(), destination.into());
            let bytes = packet(source, destination, &payload);
            let answer = too_big(&bytes, addresses(&bytes).unwrap(), 1280);
            prop_assert_eq!(answer.is_some(), !source.is_unspecified() && !source.is_multicast());
            let Some(answer) = answer else { return Ok(()) };
            prop_assert_eq!(answer.len(), MTU_MIN);
            let back = Addresses { source: destination, destination: source };
            prop_assert_eq!(addresses(&answer), Some(back));
            prop_assert_eq!(&answer[40..42], [2, 0]);
            prop_assert_eq!(&answer[44..48], 1280u32.to_be_bytes());
            prop_assert_eq!(&answer[48..], &bytes[..answer.len() - 48]);
            // With its own checksum the sum over pseudo header and body is nothing (RFC 1071).
            let whole = sum(&answer[8..40]) + sum(&answer[4..6]) + 58 + sum(&answer[40..]);
            prop_assert_eq!(checksum(whole), [0, 0]);
        }

        #[test]
        fn other_versions_are_refused(version in 0u8..16) {
            let mut bytes = packet(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, &[]);
            bytes[0] = version << 4;
            prop_assert_eq!(addresses(&bytes).is_some(), version == 6);
        }
    }
}
