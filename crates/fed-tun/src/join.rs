//! Joins consecutive packets of one flow into pieces that the kernel takes in one write.
//!
//! Only what the other end's kernel had in one piece, or could have had, is joined: all headers but
//! length, sequence number, PSH and checksum agree, and each checksum was right. The order of the
//! packets of a flow is kept; flows may overtake one another.

use std::io::IoSlice;

use crate::checksum::Sum;
use crate::header::{
    ACK, ADDRESSES, FLAGS, IPV6, NOTE, Note, PAYLOAD_LENGTH, PSH, SEQUENCE, Segmentation,
    TCP_CHECKSUM, UDP_CHECKSUM, UDP_LENGTH, Upper, upper,
};

/// Packets in one piece at most.
pub(crate) const PACKETS_MAX: usize = 64;

/// The largest piece, in bytes.
const BYTES_MAX: usize = 65_535;

/// Open pieces that are looked through for the flow of a packet.
const FLOWS: usize = 16;

/// Room for the headers of a piece: 40 bytes of IPv6, 60 of TCP.
const HEADERS_MAX: usize = 100;

/// What may be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joinable {
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

/// The pieces of one batch of packets. Its memory is kept from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Joiner {
    pieces: Vec<Piece>,
    links: Vec<Link>,
}

/// Packets to be written at once.
#[derive(Debug)]
pub(crate) struct Piece {
    /// `None` for a packet that stays alone, whatever comes.
    open: Option<Open>,
    first: usize,
    last: usize,
    packets: usize,
}

/// A piece that may grow.
#[derive(Debug)]
struct Open {
    upper: Upper,
    headers: usize,
    /// The payload of each packet but the last.
    segment: usize,
    /// The length of all, headers counted once.
    bytes: usize,
    next_sequence: u32,
    push: bool,
    /// Whether its last packet ends it.
    closed: bool,
}

/// One packet of a piece.
#[derive(Debug)]
struct Link {
    packet: usize,
    next: usize,
}

/// The end of a list.
const END: usize = usize::MAX;

impl Joiner {
    /// Sorts a batch of `count` whole packets into pieces.
    pub(crate) fn join<'a>(
        &mut self,
        count: usize,
        packet: impl Fn(usize) -> &'a [u8],
        joinable: Joinable,
    ) {
        self.pieces.clear();
        self.links.clear();
        for index in 0..count {
            let bytes = packet(index);
            self.links.push(Link {
                packet: index,
                next: END,
            });
            let open = Open::new(bytes, joinable);
            if let Some(open) = &open
                && self.append(index, bytes, open, &packet)
            {
                continue;
            }
            self.pieces.push(Piece {
                open,
                first: index,
                last: index,
                packets: 1,
            });
        }
    }

    /// Appends a packet to the last piece of its flow, if it fits there.
    fn append<'a>(
        &mut self,
        index: usize,
        bytes: &[u8],
        new: &Open,
        packet: impl Fn(usize) -> &'a [u8],
    ) -> bool {
        let candidates = self.pieces.iter_mut().rev().take(FLOWS);
        for piece in candidates {
            let first = packet(self.links[piece.first].packet);
            if !same_flow(first, bytes) {
                continue;
            }
            let Some(open) = &mut piece.open else {
                return false;
            };
            if piece.packets == PACKETS_MAX || !open.takes(first, bytes, new) {
                return false;
            }
            open.bytes += bytes.len() - new.headers;
            open.next_sequence = new.next_sequence;
            open.push |= new.push;
            open.closed = new.closed || new.segment < open.segment;
            piece.packets += 1;
            self.links[piece.last].next = index;
            piece.last = index;
            return true;
        }
        false
    }

    /// The pieces, in the order in which they are to be written.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The packets of a piece, in order, by their number in the batch.
    pub(crate) fn packets(&self, piece: &Piece) -> impl Iterator<Item = usize> {
        let mut next = piece.first;
        std::iter::from_fn(move || {
            let link = self.links.get(next)?;
            next = link.next;
            Some(link.packet)
        })
    }

    /// Hands a piece to `write`: a note, headers and payloads.
    pub(crate) fn assembled<'a, T>(
        &self,
        piece: &Piece,
        packet: impl Fn(usize) -> &'a [u8],
        write: impl FnOnce(&[IoSlice<'_>]) -> T,
    ) -> T {
        let first = packet(self.links[piece.first].packet);
        let open = match &piece.open {
            Some(open) if piece.packets > 1 => open,
            _ => return write(&[IoSlice::new(&Note::PLAIN), IoSlice::new(first)]),
        };
        let (note, headers) = open.merged(first);
        let mut slices = [IoSlice::new(&[]); PACKETS_MAX + 2];
        slices[0] = IoSlice::new(&note);
        slices[1] = IoSlice::new(&headers[..open.headers]);
        for (slice, index) in slices[2..].iter_mut().zip(self.packets(piece)) {
            *slice = IoSlice::new(&packet(index)[open.headers..]);
        }
        write(&slices[..2 + piece.packets])
    }
}

impl Piece {
    /// What the kernel has to know to cut it again; `None` for a single packet.
    pub(crate) fn joined(&self) -> Option<Upper> {
        let open = self.open.as_ref()?;
        (self.packets > 1).then_some(open.upper)
    }
}

impl Open {
    /// What a packet would be the first of; `None` if it has to stay alone.
    fn new(packet: &[u8], joinable: Joinable) -> Option<Self> {
        let (kind, headers) = upper(packet)?;
        let payload = packet.len() - headers;
        let (sequence, push, allowed) = match kind {
            Upper::Tcp => {
                let sequence = packet[IPV6 + SEQUENCE..][..4].try_into().ok()?;
                let flags = packet[IPV6 + FLAGS];
                let plain = flags & !PSH == ACK;
                let sequence = u32::from_be_bytes(sequence);
                (sequence, flags & PSH != 0, joinable.tcp && plain)
            }
            Upper::Udp => {
                let length = packet[IPV6 + UDP_LENGTH..][..2].try_into().ok()?;
                let whole = usize::from(u16::from_be_bytes(length)) == packet.len() - IPV6;
                let has_checksum = packet[IPV6 + UDP_CHECKSUM..][..2] != [0, 0];
                (0, false, joinable.udp && whole && has_checksum)
            }
        };
        let sound = || {
            Sum::pseudo(&packet[ADDRESSES], packet.len() - IPV6, kind.next_header())
                .with(&packet[IPV6..])
                .is_sound()
        };
        (allowed && payload > 0 && sound()).then(|| Self {
            upper: kind,
            headers,
            segment: payload,
            bytes: packet.len(),
            next_sequence: sequence.wrapping_add(u32::try_from(payload).unwrap_or(0)),
            push,
            closed: push,
        })
    }

    /// Whether `packet`, which would open `new`, goes on where this piece ends.
    fn takes(&self, first: &[u8], packet: &[u8], new: &Self) -> bool {
        let payload = new.segment;
        if self.closed || payload > self.segment || self.bytes + payload > BYTES_MAX {
            return false;
        }
        if self.headers != new.headers || !same_ip(first, packet) {
            return false;
        }
        match self.upper {
            Upper::Udp => true,
            Upper::Tcp => {
                let payload = u32::try_from(payload).unwrap_or(0);
                new.next_sequence.wrapping_sub(payload) == self.next_sequence
                    && same_tcp(&first[IPV6..self.headers], &packet[IPV6..self.headers])
            }
        }
    }

    /// The note and the headers of the whole piece.
    fn merged(&self, first: &[u8]) -> ([u8; NOTE], [u8; HEADERS_MAX]) {
        let mut headers = [0; HEADERS_MAX];
        headers[..self.headers].copy_from_slice(&first[..self.headers]);
        let length = self.bytes - IPV6;
        let beyond = u16::try_from(length)
            .expect("a piece is below 64 KiB")
            .to_be_bytes();
        headers[PAYLOAD_LENGTH..][..2].copy_from_slice(&beyond);
        match self.upper {
            Upper::Udp => headers[IPV6 + UDP_LENGTH..][..2].copy_from_slice(&beyond),
            Upper::Tcp if self.push => headers[IPV6 + FLAGS] |= PSH,
            Upper::Tcp => {}
        }
        // The kernel completes it when it cuts the piece, and takes it for right when it does not.
        let next_header = self.upper.next_header();
        let sum = Sum::pseudo(&first[ADDRESSES], length, next_header).folded();
        headers[IPV6 + self.upper.checksum()..][..2].copy_from_slice(&sum);
        let small = |value: usize| u16::try_from(value).expect("a piece is below 64 KiB");
        let note = Note {
            segmentation: match self.upper {
                Upper::Tcp => Segmentation::Tcp,
                Upper::Udp => Segmentation::Udp,
            },
            segment: small(self.segment),
            headers: small(self.headers),
            checksum: Some((small(IPV6), small(self.upper.checksum()))),
        };
        (note.bytes(), headers)
    }
}

/// Whether two packets of TCP or UDP have the same addresses and ports. Others are of no flow,
/// and nothing is joined to them.
fn same_flow(one: &[u8], other: &[u8]) -> bool {
    const PORTS: std::ops::Range<usize> = IPV6..IPV6 + 4;
    one.get(PORTS) == other.get(PORTS) && one[6] == other[6] && one[ADDRESSES] == other[ADDRESSES]
}

/// Whether traffic class, flow label and hop limit agree.
fn same_ip(one: &[u8], other: &[u8]) -> bool {
    one[..4] == other[..4] && one[7] == other[7]
}

/// Whether TCP headers agree in all but the sequence number, PSH and the checksum.
fn same_tcp(one: &[u8], other: &[u8]) -> bool {
    one[8..FLAGS] == other[8..FLAGS]
        && (one[FLAGS] ^ other[FLAGS]) & !PSH == 0
        && one[FLAGS + 1..TCP_CHECKSUM] == other[FLAGS + 1..TCP_CHECKSUM]
        && one[TCP_CHECKSUM + 2..] == other[TCP_CHECKSUM + 2..]
}
