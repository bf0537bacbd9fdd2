//! Inner packets for tests.

use std::net::Ipv6Addr;

/// One IPv6 packet without an upper layer (next header 59).
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len())
        .expect("a short payload")
        .to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], 59, 64];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}
