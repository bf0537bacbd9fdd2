//! Cuts what the kernel hands over in one piece into the packets that it stands for.

use crate::checksum::Sum;
use crate::header::IPV6;
use crate::header::{
    ADDRESSES, CWR, FIN, FLAGS, Note, PAYLOAD_LENGTH, PSH, SEQUENCE, Segmentation, TCP,
    TCP_CHECKSUM, UDP, UDP_CHECKSUM, UDP_HEADER, UDP_LENGTH, tcp_length,
};

/// Room for the headers of one segment: 40 bytes of IPv6, 60 of TCP, and some extensions.
const HEADERS_MAX: usize = 256;

/// Hands the packets that `packet` stands for to `take`, in order, each with its checksum.
///
/// The payload stays where it is: the headers of each segment are written before its payload, over
/// the end of the one before, which has been taken by then. What cannot be cut is handed over
/// whole; it is for the router to count.
pub(crate) fn split(note: Note, packet: &mut [u8], mut take: impl FnMut(&[u8])) {
    let cut = match note.segmentation {
        Segmentation::None => {
            finish(note, packet);
            None
        }
        Segmentation::Tcp => Cut::tcp(note, packet),
        Segmentation::Udp => Cut::udp(note, packet),
        Segmentation::Unknown => None,
    };
    match cut {
        Some(cut) => cut.run(packet, take),
        None => take(packet),
    }
}

/// Completes the checksum of a packet, where the kernel left that to its device.
fn finish(note: Note, packet: &mut [u8]) {
    let Some((start, offset)) = note.checksum else {
        return;
    };
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    if packet.len() < at + 2 || at < start {
        return;
    }
    let checksum = match Sum::default().with(&packet[start..]).checksum() {
        // In UDP zero means that there is none.
        [0, 0] if usize::from(offset) == UDP_CHECKSUM => [0xff; 2],
        checksum => checksum,
    };
    packet[at..at + 2].copy_from_slice(&checksum);
}

/// How one packet is cut.
struct Cut {
    next_header: u8,
    /// Where the upper layer starts, and where the payload does.
    upper: usize,
    headers: usize,
    /// The payload of each segment but the last.
    segment: usize,
}

impl Cut {
    fn tcp(note: Note, packet: &[u8]) -> Option<Self> {
        let upper = usize::from(note.checksum?.0);
        Self::checked(note, packet, TCP, upper, upper + tcp_length(packet, upper)?)
    }

    fn udp(note: Note, packet: &[u8]) -> Option<Self> {
        let upper = usize::from(note.checksum?.0);
        Self::checked(note, packet, UDP, upper, upper + UDP_HEADER)
    }

    fn checked(
        note: Note,
        packet: &[u8],
        next_header: u8,
        upper: usize,
        headers: usize,
    ) -> Option<Self> {
        let sound = upper >= IPV6
            && headers <= HEADERS_MAX
            && headers < packet.len()
            && packet[0] >> 4 == 6
            && note.segment > 0;
        sound.then_some(Self {
            next_header,
            upper,
            headers,
            segment: usize::from(note.segment),
        })
    }

    fn run(&self, packet: &mut [u8], mut take: impl FnMut(&[u8])) {
        let mut template = [0; HEADERS_MAX];
        let template = &mut template[..self.headers];
        template.copy_from_slice(&packet[..self.headers]);
        let payload = packet.len() - self.headers;
        for start in (0..payload).step_by(self.segment) {
            let length = self.segment.min(payload - start);
            let segment = &mut packet[start..start + self.headers + length];
            segment[..self.headers].copy_from_slice(template);
            self.fill(segment, start, start + length == payload);
            take(segment);
        }
    }

    /// Fills in what differs between the segments.
    fn fill(&self, segment: &mut [u8], start: usize, last: bool) {
        let beyond = u16::try_from(segment.len() - IPV6).expect("below 64 KiB");
        segment[PAYLOAD_LENGTH..][..2].copy_from_slice(&beyond.to_be_bytes());
        let length = segment.len() - self.upper;
        let (head, upper) = segment.split_at_mut(self.upper);
        let checksum = if self.next_header == TCP {
            let sequence = upper[SEQUENCE..][..4].try_into().expect("four bytes");
            let offset = u32::try_from(start).expect("below 64 KiB");
            let sequence = u32::from_be_bytes(sequence).wrapping_add(offset);
            upper[SEQUENCE..][..4].copy_from_slice(&sequence.to_be_bytes());
            if !last {
                upper[FLAGS] &= !(FIN | PSH);
            }
            if start > 0 {
                upper[FLAGS] &= !CWR;
            }
            TCP_CHECKSUM
        } else {
            let length = u16::try_from(length).expect("below 64 KiB");
            upper[UDP_LENGTH..][..2].copy_from_slice(&length.to_be_bytes());
            UDP_CHECKSUM
        };
        upper[checksum..][..2].fill(0);
        let sum = Sum::pseudo(&head[ADDRESSES], length, self.next_header).with(upper);
        let value = match sum.checksum() {
            [0, 0] if self.next_header == UDP => [0xff; 2],
            value => value,
        };
        upper[checksum..][..2].copy_from_slice(&value);
    }
}
