//! What a router hands out, in buffers that are filled, emptied and filled again.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;

use crate::{Event, PublicKey};

/// Datagrams to send, packets to deliver and events, in order.
///
/// Each call of a router adds to the output it is given. Its owner sends and delivers what is in
/// it, in order, and empties it with [`Output::clear`], which keeps the memory for the next round.
#[derive(Debug, Default)]
pub struct Output {
    transmits: Arena,
    /// Where each datagram in `transmits` goes, and how long it is; they lie back to back.
    destinations: Vec<(SocketAddr, usize)>,
    delivers: Arena,
    packets: Vec<Range<usize>>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) waiting: bool,
    /// The relays by which peers are being tried.
    pub(crate) tried: BTreeSet<PublicKey>,
}

/// Consecutive datagrams to one destination, back to back: all of one length, but for the last,
/// which may be shorter. This is what a kernel with segmentation offload sends in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train<'a> {
    /// Where to; never an IPv4-mapped IPv6 address.
    pub to: SocketAddr,
    /// The UDP payloads.
    pub bytes: &'a [u8],
    /// The length of each datagram but the last, in bytes.
    pub segment: usize,
}

impl Train<'_> {
    /// The number of datagrams, at least one.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.segment.max(1)).max(1)
    }
}

impl Output {
    /// The datagrams to send, in order, each train as long as it can be with at most
    /// `max_datagrams` (at least 1) and, unless it is a single one, `max_bytes`.
    pub fn trains(
        &self,
        max_datagrams: usize,
        max_bytes: usize,
    ) -> impl Iterator<Item = Train<'_>> {
        let (mut offset, mut next) = (0, 0);
        std::iter::from_fn(move || {
            let &(to, segment) = self.destinations.get(next)?;
            let (start, first) = (offset, next);
            loop {
                let length = self.destinations[next].1;
                offset += length;
                next += 1;
                let more = self
                    .destinations
                    .get(next)
                    .is_some_and(|&(other, following)| {
                        other == to
                            && length == segment
                            && following <= segment
                            && following > 0
                            && next - first < max_datagrams
                            && offset - start + following <= max_bytes
                    });
                if !more {
                    break;
                }
            }
            Some(Train {
                to,
                bytes: &self.transmits.bytes[start..offset],
                segment,
            })
        })
    }

    /// The inner packets for the TUN, in order.
    pub fn packets(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let packet = |range: &Range<usize>| &self.delivers.bytes[range.clone()];
        self.packets.iter().map(packet)
    }

    /// The inner packet with this number, counted from 0 in the order of [`Self::packets`].
    ///
    /// # Panics
    /// There are not so many.
    #[must_use]
    pub fn packet(&self, index: usize) -> &[u8] {
        &self.delivers.bytes[self.packets[index].clone()]
    }

    /// Takes the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether packets that waited for a handshake can go now: call
    /// [`Router::send_waiting`](crate::Router::send_waiting).
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        self.waiting
    }

    /// The bytes of all datagrams to send.
    #[must_use]
    pub fn transmit_bytes(&self) -> usize {
        self.transmits.used
    }

    /// Forgets all but the memory.
    pub fn clear(&mut self) {
        self.transmits.used = 0;
        self.destinations.clear();
        self.delivers.used = 0;
        self.packets.clear();
        self.events.clear();
        self.waiting = false;
    }

    /// Room for one more datagram, which [`Self::keep_transmit`] keeps.
    pub(crate) fn transmit_room(&mut self, length: usize) -> &mut [u8] {
        self.transmits.room(length)
    }

    /// Keeps the first `length` bytes of the room as a datagram to `to`.
    pub(crate) fn keep_transmit(&mut self, to: SocketAddr, length: usize) {
        self.transmits.used += length;
        self.destinations.push((to, length));
    }

    /// Adds a datagram that lies elsewhere.
    pub(crate) fn push_transmit(&mut self, to: SocketAddr, payload: &[u8]) {
        self.transmit_room(payload.len()).copy_from_slice(payload);
        self.keep_transmit(to, payload.len());
    }

    /// Room for one more packet, which [`Self::keep_packet`] keeps.
    pub(crate) fn packet_room(&mut self, length: usize) -> &mut [u8] {
        self.delivers.room(length)
    }

    /// Adds a packet that lies elsewhere.
    pub(crate) fn push_packet(&mut self, packet: &[u8]) {
        self.packet_room(packet.len()).copy_from_slice(packet);
        self.keep_packet(packet.len());
    }

    /// The first `length` bytes of the room.
    pub(crate) fn next_packet(&self, length: usize) -> &[u8] {
        &self.delivers.bytes[self.delivers.used..][..length]
    }

    /// Keeps the first `length` bytes of the room as a packet.
    pub(crate) fn keep_packet(&mut self, length: usize) {
        let start = self.delivers.used;
        self.delivers.used += length;
        self.packets.push(start..self.delivers.used);
    }
}

/// Bytes back to back, of which the first `used` count.
#[derive(Debug, Default)]
struct Arena {
    bytes: Vec<u8>,
    used: usize,
}

impl Arena {
    fn room(&mut self, length: usize) -> &mut [u8] {
        let end = self.used + length;
        if self.bytes.len() < end {
            // Doubles, so that a steady load grows it no more; old bytes are never cleared.
            self.bytes.resize(end.next_power_of_two(), 0);
        }
        &mut self.bytes[self.used..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn trains(output: &Output, datagrams: usize, bytes: usize) -> Vec<(u16, usize, usize)> {
        let trains = output.trains(datagrams, bytes);
        trains
            .map(|train| (train.to.port(), train.segment, train.bytes.len()))
            .collect()
    }

    #[test]
    fn a_train_ends_with_a_shorter_datagram_another_destination_or_at_its_limits() {
        let mut output = Output::default();
        for (port, length) in [
            (1, 5),
            (1, 5),
            (1, 3),
            (1, 3),
            (1, 5),
            (2, 5),
            (2, 5),
            (2, 0),
        ] {
            output.push_transmit(to(port), &vec![7; length]);
        }
        assert_eq!(
            trains(&output, 64, 65_000),
            [(1, 5, 13), (1, 3, 3), (1, 5, 5), (2, 5, 10), (2, 0, 0)]
        );
        assert_eq!(trains(&output, 2, 65_000)[..2], [(1, 5, 10), (1, 3, 6)]);
        assert_eq!(trains(&output, 64, 12)[..2], [(1, 5, 10), (1, 3, 6)]);
        assert_eq!(trains(&output, 1, 1).len(), 8);
        output.clear();
        assert_eq!(trains(&output, 64, 65_000), []);
    }

    proptest! {
        #[test]
        fn trains_carry_every_datagram_once_and_in_order(
            datagrams in proptest::collection::vec((0u16..2, 1usize..4), 0..40),
            max in 1usize..6, bytes in 1usize..12,
        ) {
            let mut output = Output::default();
            for (number, (port, length)) in datagrams.iter().enumerate() {
                let payload = vec![u8::try_from(number).unwrap(); *length];
                output.push_transmit(to(*port), &payload);
            }
            let mut seen = Vec::new();
            for train in output.trains(max, bytes) {
                prop_assert!(train.datagrams() <= max);
                prop_assert!(train.datagrams() == 1 || train.bytes.len() <= bytes);
                for datagram in train.bytes.chunks(train.segment) {
                    prop_assert!(datagram.iter().all(|b| usize::from(*b) == seen.len()));
                    seen.push((train.to.port(), datagram.len()));
                }
            }
            prop_assert_eq!(seen, datagrams);
        }
    }
}
