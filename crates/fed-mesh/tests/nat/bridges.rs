//! The other way than UDP: what carries datagrams between two hosts over TCP, of which a router
//! sees an address on its own loopback.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

/// The bridges between routers; each is opened by one of the two and serves both.
#[derive(Debug, Default)]
pub(crate) struct Bridges {
    /// The ends that routers have opened, by (router, peer), and whether the router knows.
    opened: BTreeMap<(usize, usize), (SocketAddr, bool)>,
    /// Of each end, where the other one is: (router, its end).
    others: BTreeMap<SocketAddr, (usize, SocketAddr)>,
}

impl Bridges {
    /// Opens a bridge, unless there is one.
    pub(crate) fn open(&mut self, from: usize, to: usize) {
        if self.opened.contains_key(&(from, to)) {
            return;
        }
        let port = 40_000 + u16::try_from(self.others.len()).expect("a few bridges");
        let [near, far] = [port, port + 1].map(|port| (Ipv4Addr::LOCALHOST, port).into());
        self.opened.insert((from, to), (near, false));
        self.others.insert(near, (to, far));
        self.others.insert(far, (from, near));
    }

    /// Whether a router has bridges that it has not been told of; from now on it has been.
    pub(crate) fn take_news(&mut self, router: usize) -> bool {
        let mine = self
            .opened
            .iter_mut()
            .filter(|((from, _), _)| *from == router);
        mine.fold(false, |news, (_, (_, told))| {
            news | !std::mem::replace(told, true)
        })
    }

    /// Where a router knows that it has a bridge to another.
    pub(crate) fn told(&self, from: usize, to: usize) -> impl Iterator<Item = SocketAddr> + use<> {
        let opened = self.opened.get(&(from, to)).filter(|(_, told)| *told);
        opened.map(|(end, _)| *end).into_iter()
    }

    /// Who gets what is sent to an end of a bridge, and from which end.
    pub(crate) fn other(&self, end: SocketAddr) -> Option<(usize, SocketAddr)> {
        self.others.get(&end).copied()
    }

    /// How many have been opened.
    pub(crate) fn count(&self) -> usize {
        self.opened.len()
    }
}
