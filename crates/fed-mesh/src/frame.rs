//! The frame in which a datagram travels by way of a relay.
//!
//! ```text
//!  0        1        2        3        4 … 9            10 … 15          16 …
//! +--------+--------+--------+--------+----------------+----------------+------------------+
//! | 0x52   | 0      | 0      | 0      | destination    | source         | WireGuard message |
//! +--------+--------+--------+--------+----------------+----------------+------------------+
//! ```
//!
//! Routers are named by the first six bytes of their public keys. WireGuard's own messages begin
//! with 1 to 4, so both kinds share one UDP port. A relay passes a frame on unchanged.

use crate::PublicKey;

/// The bytes that a frame adds to a datagram.
pub(crate) const HEADER: usize = 16;

const KIND: [u8; 4] = [0x52, 0, 0, 0];

/// The short name of a router in frames: the first six bytes of its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct RouterId([u8; 6]);

impl From<PublicKey> for RouterId {
    fn from(key: PublicKey) -> Self {
        let bytes = key.as_bytes();
        Self([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
    }
}

/// A frame, as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) to: RouterId,
    pub(crate) from: RouterId,
    /// The WireGuard message. It is neither empty nor a frame itself.
    pub(crate) message: &'a [u8],
}

/// Whether a datagram claims to be a frame.
pub(crate) fn is_frame(datagram: &[u8]) -> bool {
    datagram.first() == Some(&KIND[0])
}

impl<'a> Frame<'a> {
    /// Reads a frame; `None` where it is malformed.
    pub(crate) fn read(datagram: &'a [u8]) -> Option<Self> {
        let (kind, rest) = datagram.split_first_chunk::<4>()?;
        let (to, rest) = rest.split_first_chunk::<6>()?;
        let (from, message) = rest.split_first_chunk::<6>()?;
        let whole = *kind == KIND && !message.is_empty() && !is_frame(message);
        whole.then_some(Self {
            to: RouterId(*to),
            from: RouterId(*from),
            message,
        })
    }
}

/// Writes the header to the head of `room`, and returns the room for the message.
pub(crate) fn write(room: &mut [u8], to: RouterId, from: RouterId) -> &mut [u8] {
    let (header, message) = room.split_at_mut(HEADER);
    header[..4].copy_from_slice(&KIND);
    header[4..10].copy_from_slice(&to.0);
    header[10..].copy_from_slice(&from.0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(byte: u8) -> RouterId {
        RouterId::from(PublicKey::from_bytes([byte; 32]))
    }

    proptest! {
        #[test]
        fn reads_what_was_written(to: u8, from: u8, kind in 1u8..5, rest: Vec<u8>) {
            let message = [&[kind][..], &rest].concat();
            let mut datagram = vec![0; HEADER + message.len()];
            write(&mut datagram, id(to), id(from)).copy_from_slice(&message);
            let frame = Frame { to: id(to), from: id(from), message: &message };
            prop_assert_eq!(Frame::read(&datagram), Some(frame));
        }

        #[test]
        fn any_bytes_are_read_or_refused(datagram: Vec<u8>) {
            let frame = Frame::read(&datagram);
            prop_assert_eq!(
                frame.map(|frame| frame.message.len() + HEADER),
                frame.map(|_| datagram.len())
            );
        }
    }

    #[test]
    fn frames_in_frames_empty_and_short_ones_are_refused() {
        let mut datagram = vec![0; HEADER + 1];
        write(&mut datagram, id(1), id(2))[0] = 4;
        assert!(Frame::read(&datagram).is_some());
        assert_eq!(Frame::read(&datagram[..HEADER]), None);
        assert_eq!(Frame::read(&datagram[..HEADER - 1]), None);
        datagram[HEADER] = KIND[0];
        assert_eq!(Frame::read(&datagram), None);
        datagram[HEADER] = 4;
        datagram[1] = 1;
        assert_eq!(Frame::read(&datagram), None);
    }
}
