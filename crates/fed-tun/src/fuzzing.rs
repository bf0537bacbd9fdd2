//! What is done with packets of peers and with what the kernel hands over, for the fuzz targets in
//! `fuzz/` and the tests beside them.

use std::collections::BTreeMap;
use std::io::IoSlice;

use crate::header::{IPV6, NOTE, Note};
use crate::join::{Joinable, Joiner};
use crate::split::split;

/// The pieces that packets are joined to, as they are written to the TUN.
pub(crate) fn joined(packets: &[Vec<u8>], joinable: Joinable) -> Vec<Vec<u8>> {
    let mut joiner = Joiner::default();
    let packet = |index: usize| packets[index].as_slice();
    joiner.join(packets.len(), packet, joinable);
    let flat = |slices: &[IoSlice<'_>]| -> Vec<u8> {
        slices
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect()
    };
    let pieces = joiner.pieces().iter();
    pieces
        .map(|piece| joiner.assembled(piece, packet, flat))
        .collect()
}

/// The packets that a kernel's piece is cut into.
pub(crate) fn cut(piece: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    if let Some((note, packet)) = piece.split_first_chunk::<NOTE>() {
        split(Note::parse(note), &mut packet.to_vec(), |packet| {
            packets.push(packet.to_vec());
        });
    }
    packets
}

/// Packets by protocol, addresses and ports, in their order.
pub(crate) fn flows(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<&[u8]>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        let flow = [&packet[6..7], &packet[8..packet.len().min(IPV6 + 4)]].concat();
        flows.entry(flow).or_default().push(packet.as_slice());
    }
    flows
}

/// Cuts a piece of the kernel, a note and a packet.
///
/// # Panics
/// More comes out than went in and headers for each segment account for.
pub fn pieces_of_the_kernel(input: &[u8]) {
    let packets = cut(input);
    assert_eq!(packets.is_empty(), input.len() < NOTE);
    assert!(packets.len() <= input.len().max(1));
    for packet in &packets {
        assert!(packet.len() <= input.len());
    }
}

/// Joins packets of peers, and cuts them again. Each piece of the input is the rest of an IPv6
/// packet behind its length field; the router lets no others pass.
///
/// # Panics
/// A packet is lost or changed, or the order of a flow is.
pub fn packets_of_peers(input: &[u8]) {
    let packets: Vec<_> = fed_mesh::fuzzing::pieces(input)
        .map(|rest| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 0];
            packet.extend(rest);
            packet.resize(packet.len().max(IPV6), 0);
            let length = u16::try_from(packet.len() - IPV6).unwrap_or(u16::MAX);
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            packet.truncate(IPV6 + usize::from(length));
            packet
        })
        .collect();
    for (tcp, udp) in [(true, true), (true, false), (false, true)] {
        let pieces = joined(&packets, Joinable { tcp, udp });
        let again: Vec<_> = pieces.iter().flat_map(|piece| cut(piece)).collect();
        assert_eq!(flows(&again), flows(&packets));
    }
}
