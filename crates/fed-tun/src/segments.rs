//! Tests of cutting and joining against each other: what was joined is cut into the same packets.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::checksum::Sum;
use crate::fuzzing::{cut, flows, joined};
use crate::header::{
    ACK, CWR, FIN, FLAGS, IPV6, NOTE, Note, PSH, Segmentation, TCP_CHECKSUM, UDP_CHECKSUM, Upper,
    upper,
};
use crate::join::{Joinable, PACKETS_MAX};
use crate::split::split;

const BOTH: Joinable = Joinable {
    tcp: true,
    udp: true,
};

/// A packet of TCP (with timestamps) or UDP from `port`, with its checksum.
fn packet(kind: Upper, port: u16, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut upper = port.to_be_bytes().to_vec();
    upper.extend(9000u16.to_be_bytes());
    match kind {
        Upper::Tcp => {
            upper.extend(sequence.to_be_bytes());
            upper.extend([0, 0, 0, 1, 8 << 4, flags, 1, 0, 0, 0, 0, 0]);
            upper.extend([1, 1, 8, 10, 0, 0, 0, 5, 0, 0, 0, 6]);
        }
        Upper::Udp => {
            let length = u16::try_from(8 + payload.len()).unwrap();
            upper.extend(length.to_be_bytes());
            upper.extend([0, 0]);
        }
    }
    upper.extend(payload);
    let length = u16::try_from(upper.len()).unwrap();
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([kind.next_header(), 64]);
    bytes.extend([[0xfd; 16], [0xfe; 16]].concat());
    let sum = Sum::pseudo(&bytes[8..40], upper.len(), kind.next_header());
    let checksum = sum.with(&upper).checksum();
    upper[kind.checksum()..][..2].copy_from_slice(&checksum);
    [bytes, upper].concat()
}

fn is_sound(packet: &[u8]) -> bool {
    let (kind, _) = upper(packet).unwrap();
    Sum::pseudo(&packet[8..40], packet.len() - IPV6, kind.next_header())
        .with(&packet[IPV6..])
        .is_sound()
}

/// What the kernel hands over for a large send: one packet whose checksum is only begun.
fn large(kind: Upper, flags: u8, segment: u16, payload: &[u8]) -> Vec<u8> {
    let mut whole = packet(kind, 7, 1000, flags, payload);
    let sum = Sum::pseudo(&whole[8..40], whole.len() - IPV6, kind.next_header());
    whole[IPV6 + kind.checksum()..][..2].copy_from_slice(&sum.folded());
    let note = Note {
        segmentation: match kind {
            Upper::Tcp => Segmentation::Tcp,
            Upper::Udp => Segmentation::Udp,
        },
        segment,
        headers: 0,
        checksum: Some((40, u16::try_from(kind.checksum()).unwrap())),
    };
    [note.bytes().to_vec(), whole].concat()
}

fn kind() -> impl Strategy<Value = Upper> {
    prop_oneof![Just(Upper::Tcp), Just(Upper::Udp)]
}

proptest! {
    #[test]
    fn a_large_send_is_cut_into_sound_segments_and_joined_again(
        kind in kind(), segment in 1u16..1500, payload in vec(any::<u8>(), 1..30_000),
        ending in prop_oneof![Just(0), Just(PSH), Just(PSH | FIN)], beginning in prop_oneof![Just(0), Just(CWR)],
    ) {
        let flags = ACK | ending | beginning;
        let whole = large(kind, flags, segment, &payload);
        let segments = cut(&whole);
        prop_assert_eq!(segments.len(), payload.len().div_ceil(usize::from(segment)));
        let mut carried: Vec<u8> = Vec::new();
        for (number, packet) in segments.iter().enumerate() {
            prop_assert!(is_sound(packet));
            let (_, headers) = upper(packet).unwrap();
            prop_assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len() - IPV6);
            if kind == Upper::Tcp {
                let sequence = u32::from_be_bytes(packet[44..48].try_into().unwrap());
                prop_assert_eq!(sequence as usize, 1000 + carried.len());
                let last = number + 1 == segments.len();
                let expected = ACK | if last { ending } else { 0 } | if number == 0 { beginning } else { 0 };
                prop_assert_eq!(packet[IPV6 + FLAGS], expected);
            }
            carried.extend(&packet[headers..]);
        }
        prop_assert_eq!(&carried, &payload);
        let pieces = joined(&segments, BOTH);
        let plain = kind == Upper::Udp || (ending & FIN == 0 && beginning == 0);
        if plain && (2..=PACKETS_MAX).contains(&segments.len()) {
            prop_assert_eq!(pieces.len(), 1);
            // All but the kernel's hint about the length of the headers.
            prop_assert_eq!(&pieces[0][..2], &whole[..2]);
            prop_assert_eq!(&pieces[0][4..], &whole[4..]);
        }
        let again: Vec<_> = pieces.iter().flat_map(|piece| cut(piece)).collect();
        prop_assert_eq!(again, segments);
    }

    #[test]
    fn joining_keeps_every_packet_and_the_order_of_each_flow(
        packets in vec((kind(), 0u16..3, 0u8..20, 1usize..4), 0..200), tcp: bool, udp: bool,
    ) {
        let mut next = BTreeMap::new();
        let packets: Vec<_> = packets.into_iter().enumerate().map(|(number, (kind, port, odd, length))| {
            let sequence = next.entry(port).or_insert(u32::MAX - 20);
            let payload = vec![u8::try_from(number).unwrap(); length * 100];
            let flags = match odd { 0 => ACK | FIN, 1 => ACK | PSH, _ => ACK };
            let mut bytes = packet(kind, port, *sequence, flags, &payload);
            if kind == Upper::Tcp {
                // A gap now and then.
                *sequence = sequence.wrapping_add(u32::try_from(payload.len()).unwrap() + u32::from(odd == 2));
            }
            if odd == 3 {
                bytes[IPV6 + kind.checksum()] ^= 1;
            }
            bytes
        }).collect();
        let pieces = joined(&packets, Joinable { tcp, udp });
        for piece in &pieces {
            let note = Note::parse(piece.first_chunk().unwrap());
            prop_assert!(tcp || note.segmentation != Segmentation::Tcp);
            prop_assert!(udp || note.segmentation != Segmentation::Udp);
        }
        let again: Vec<_> = pieces.iter().flat_map(|piece| cut(piece)).collect();
        prop_assert_eq!(flows(&again), flows(&packets));
    }

    #[test]
    fn any_bytes_are_cut_or_handed_over(note: [u8; NOTE], mut packet in vec(any::<u8>(), 0..2000), six: bool) {
        if let (Some(first), true) = (packet.first_mut(), six) {
            *first = 0x60;
        }
        let mut note = Note::parse(&note);
        note.checksum = note.checksum.map(|(start, offset)| (start % 300, offset % 300));
        let mut taken = 0;
        split(note, &mut packet, |_| taken += 1);
        prop_assert!(taken > 0);
    }
}

#[test]
fn a_wrong_checksum_is_left_for_the_receiver_to_find() {
    let mut packets = vec![
        packet(Upper::Tcp, 7, 0, ACK, &[1; 100]),
        packet(Upper::Tcp, 7, 100, ACK, &[2; 100]),
    ];
    assert_eq!(joined(&packets, BOTH).len(), 1);
    packets[1][IPV6 + TCP_CHECKSUM] ^= 1;
    let pieces = joined(&packets, BOTH);
    assert_eq!(pieces.len(), 2);
    assert_eq!(pieces[1][NOTE..], packets[1]);
}

#[test]
fn udp_without_a_checksum_stays_alone() {
    let mut packets = vec![packet(Upper::Udp, 7, 0, 0, &[1; 100]); 2];
    assert_eq!(joined(&packets, BOTH).len(), 1);
    for packet in &mut packets {
        packet[IPV6 + UDP_CHECKSUM..][..2].fill(0);
    }
    assert_eq!(joined(&packets, BOTH).len(), 2);
}
