//! What a link has carried and dropped.

use std::time::Duration;

/// Why a frame did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DropReason {
    Queue,
    Loss,
    Cut,
    Mtu,
    Device,
}

/// What one direction between two hosts has carried and dropped.
///
/// Bytes are those of Ethernet frames as the sending host's device hands them over: 14-byte header
/// and payload, without preamble, padding, checksum and gap. ARP and neighbour discovery count too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames sent to their last bit: they used the link, also where they were lost afterwards.
    pub frames: u64,
    /// Bytes of `frames`.
    pub bytes: u64,
    /// Frames handed to the receiving host.
    pub delivered_frames: u64,
    /// Bytes of `delivered_frames`.
    pub delivered_bytes: u64,
    /// Frames dropped before sending because the queue was full.
    pub dropped_queue: u64,
    /// Frames that came, or were to come, a second time.
    pub repeated: u64,
    /// Frames lost on the way by chance.
    pub dropped_loss: u64,
    /// Frames dropped because the direction was cut, at their start or while they were under way.
    pub dropped_cut: u64,
    /// Frames dropped before sending because their payload exceeded the link's MTU.
    pub dropped_mtu: u64,
    /// Frames that the receiving host's device refused, for example because it was down.
    pub dropped_device: u64,
    /// Time spent sending `frames` at the link's rate (zero on a link without a rate).
    pub busy: Duration,
}

impl Counters {
    /// The share of `elapsed` in which the link was sending, 0 to 1.
    #[must_use]
    pub fn utilisation(&self, elapsed: Duration) -> f64 {
        if elapsed.is_zero() {
            0.0
        } else {
            self.busy.as_secs_f64() / elapsed.as_secs_f64()
        }
    }

    /// What was added since `earlier`, a value of the same link.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            frames: self.frames - earlier.frames,
            bytes: self.bytes - earlier.bytes,
            delivered_frames: self.delivered_frames - earlier.delivered_frames,
            delivered_bytes: self.delivered_bytes - earlier.delivered_bytes,
            dropped_queue: self.dropped_queue - earlier.dropped_queue,
            repeated: self.repeated - earlier.repeated,
            dropped_loss: self.dropped_loss - earlier.dropped_loss,
            dropped_cut: self.dropped_cut - earlier.dropped_cut,
            dropped_mtu: self.dropped_mtu - earlier.dropped_mtu,
            dropped_device: self.dropped_device - earlier.dropped_device,
            busy: self.busy - earlier.busy,
        }
    }

    pub(super) fn drop_frame(&mut self, reason: DropReason) {
        match reason {
            DropReason::Queue => self.dropped_queue += 1,
            DropReason::Loss => self.dropped_loss += 1,
            DropReason::Cut => self.dropped_cut += 1,
            DropReason::Mtu => self.dropped_mtu += 1,
            DropReason::Device => self.dropped_device += 1,
        }
    }
}
