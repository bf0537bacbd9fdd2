//! What the packet path reads of headers: the kernel's note before each packet of a TUN, and the
//! IPv6, TCP and UDP headers whose segments are cut and joined.

/// Length of the note before each packet, in bytes (`struct virtio_net_hdr`, linux/virtio_net.h).
pub(crate) const NOTE: usize = 10;

/// Length of an IPv6 header (RFC 8200, section 3).
pub(crate) const IPV6: usize = 40;
/// Length of a UDP header (RFC 768).
pub(crate) const UDP_HEADER: usize = 8;
/// Length of a TCP header without options (RFC 9293, section 3.1).
const TCP_MIN: usize = 20;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Offsets in an IPv6 header.
pub(crate) const PAYLOAD_LENGTH: usize = 4;
const NEXT_HEADER: usize = 6;
pub(crate) const ADDRESSES: std::ops::Range<usize> = 8..40;

/// Offsets in a TCP header.
pub(crate) const SEQUENCE: usize = 4;
const DATA_OFFSET: usize = 12;
pub(crate) const FLAGS: usize = 13;
pub(crate) const TCP_CHECKSUM: usize = 16;

/// Offsets in a UDP header.
pub(crate) const UDP_LENGTH: usize = 4;
pub(crate) const UDP_CHECKSUM: usize = 6;

/// TCP flags.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV6: u8 = 4;
const GSO_UDP: u8 = 5;
/// Set beside the type: the first segment alone bears CWR.
const GSO_ECN: u8 = 0x80;

/// How a packet is to be cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segmentation {
    /// It is one packet.
    None,
    /// TCP over IPv6.
    Tcp,
    /// UDP: each segment is a datagram.
    Udp,
    /// Some way that was never asked for.
    Unknown,
}

/// The kernel's note about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) segmentation: Segmentation,
    /// The payload of each segment but the last, in bytes.
    pub(crate) segment: u16,
    /// The length of the headers, in bytes; only a hint where the kernel is the author.
    pub(crate) headers: u16,
    /// Where the sum of the upper layer starts, and where in it the checksum is missing.
    pub(crate) checksum: Option<(u16, u16)>,
}

impl Note {
    /// About a whole packet with its checksum.
    pub(crate) const PLAIN: [u8; NOTE] = [0; NOTE];

    pub(crate) fn parse(bytes: &[u8; NOTE]) -> Self {
        let field = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            segmentation: match bytes[1] & !GSO_ECN {
                GSO_NONE => Segmentation::None,
                GSO_TCPV6 => Segmentation::Tcp,
                GSO_UDP => Segmentation::Udp,
                _ => Segmentation::Unknown,
            },
            segment: field(4),
            headers: field(2),
            checksum: (bytes[0] & NEEDS_CHECKSUM != 0).then(|| (field(6), field(8))),
        }
    }

    pub(crate) fn bytes(self) -> [u8; NOTE] {
        let mut bytes = Self::PLAIN;
        bytes[0] = if self.checksum.is_some() {
            NEEDS_CHECKSUM
        } else {
            0
        };
        bytes[1] = match self.segmentation {
            Segmentation::None | Segmentation::Unknown => GSO_NONE,
            Segmentation::Tcp => GSO_TCPV6,
            Segmentation::Udp => GSO_UDP,
        };
        let (start, offset) = self.checksum.unwrap_or_default();
        let fields = [self.headers, self.segment, start, offset];
        for (to, field) in bytes[2..].chunks_exact_mut(2).zip(fields) {
            to.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

/// The upper layer of an IPv6 packet without extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upper {
    Tcp,
    Udp,
}

impl Upper {
    pub(crate) fn next_header(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// Where in its header the checksum is.
    pub(crate) fn checksum(self) -> usize {
        match self {
            Self::Tcp => TCP_CHECKSUM,
            Self::Udp => UDP_CHECKSUM,
        }
    }
}

/// The length of the TCP header that starts at `at`, in bytes, if it is all there.
pub(crate) fn tcp_length(packet: &[u8], at: usize) -> Option<usize> {
    let header = packet.get(at..)?;
    let length = usize::from(*header.get(DATA_OFFSET)? >> 4) * 4;
    (length >= TCP_MIN && header.len() >= length).then_some(length)
}

/// The upper layer of a whole IPv6 packet, and the length of all its headers.
pub(crate) fn upper(packet: &[u8]) -> Option<(Upper, usize)> {
    if packet.len() < IPV6 || packet[0] >> 4 != 6 {
        return None;
    }
    match packet[NEXT_HEADER] {
        TCP => Some((Upper::Tcp, IPV6 + tcp_length(packet, IPV6)?)),
        UDP if packet.len() >= IPV6 + UDP_HEADER => Some((Upper::Udp, IPV6 + UDP_HEADER)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_as_it_was_written() {
        for segmentation in [Segmentation::None, Segmentation::Tcp, Segmentation::Udp] {
            for checksum in [None, Some((40, 16))] {
                let note = Note {
                    segmentation,
                    segment: 1348,
                    headers: 72,
                    checksum,
                };
                assert_eq!(Note::parse(&note.bytes()), note);
            }
        }
        assert_eq!(Note::parse(&Note::PLAIN).segmentation, Segmentation::None);
        let mut ecn = Note::PLAIN;
        ecn[1] = GSO_TCPV6 | GSO_ECN;
        assert_eq!(Note::parse(&ecn).segmentation, Segmentation::Tcp);
    }
}
