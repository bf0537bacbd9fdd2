//! Numbered nodes, and numbered packets between them.

use std::net::Ipv6Addr;

use fed_mesh::PublicKey;

pub(crate) fn key(node: usize) -> PublicKey {
    PublicKey::from_bytes([byte(node + 1); 32])
}

pub(crate) fn inner(node: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, u16::from(byte(node)), 0, 0, 0, 1)
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).expect("some dozens of nodes")
}

/// Where it comes from, its number, and `length` bytes that differ for each packet of each run.
pub(crate) fn payload(seed: u64, from: usize, to: usize, number: u64, length: usize) -> Vec<u8> {
    let mut payload = vec![byte(from)];
    payload.extend(number.to_le_bytes());
    let mix = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (to as u64) << 32;
    payload.extend(mix.to_le_bytes().into_iter().cycle().take(length));
    payload
}

/// Who sent a packet, and its number.
pub(crate) fn read(packet: &[u8]) -> (usize, u64) {
    let payload = packet.get(40..).expect("a whole header");
    let number = payload[1..9].try_into().expect("eight bytes");
    (usize::from(payload[0]), u64::from_le_bytes(number))
}
