//! Counters of what the packet path itself loses.

use std::sync::atomic::{AtomicU64, Ordering};

/// What the path itself lost; the router counts what it drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Packets for the TUN while its queue was full.
    pub tun_full: u64,
    /// Packets that the TUN refused, for example because the device is down.
    pub tun_refused: u64,
    /// Datagrams while the socket's send buffer was full.
    pub udp_full: u64,
    /// Datagrams that the kernel refused to send, for example for want of a route.
    pub udp_refused: u64,
    /// Datagrams longer than the device on their way carries: now and then a probe of the path is.
    pub udp_too_long: u64,
    /// Errors instead of datagrams on the socket.
    pub udp_receive_errors: u64,
}

impl Losses {
    /// The counters by name, in lower case with hyphens.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("tun-full", self.tun_full),
            ("tun-refused", self.tun_refused),
            ("udp-full", self.udp_full),
            ("udp-refused", self.udp_refused),
            ("udp-too-long", self.udp_too_long),
            ("udp-receive-errors", self.udp_receive_errors),
        ]
    }
}

/// The same, while two threads count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) tun_full: Counter,
    pub(crate) tun_refused: Counter,
    pub(crate) udp_full: Counter,
    pub(crate) udp_refused: Counter,
    pub(crate) udp_too_long: Counter,
    pub(crate) udp_receive_errors: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn losses(&self) -> Losses {
        Losses {
            tun_full: self.tun_full.get(),
            tun_refused: self.tun_refused.get(),
            udp_full: self.udp_full.get(),
            udp_refused: self.udp_refused.get(),
            udp_too_long: self.udp_too_long.get(),
            udp_receive_errors: self.udp_receive_errors.get(),
        }
    }
}
