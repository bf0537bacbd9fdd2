//! A router and its output, which hands out one thing at a time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Instant;

use fed_mesh::{Event, Noise, Output, PeerConfig, Protocol, Router, SetPeersError};

/// A datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transmit {
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

pub(crate) struct Node<P: Protocol = Noise> {
    router: Router<P>,
    out: Output,
    transmits: VecDeque<Transmit>,
    delivers: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
}

impl<P: Protocol> Node<P> {
    pub(crate) fn new(router: Router<P>) -> Self {
        Self {
            router,
            out: Output::default(),
            transmits: VecDeque::new(),
            delivers: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    pub(crate) fn set_peers(
        &mut self,
        peers: Vec<PeerConfig>,
        now: Instant,
    ) -> Result<(), SetPeersError> {
        let result = self.router.set_peers(peers, now, &mut self.out);
        self.collect();
        result
    }

    pub(crate) fn handle_inner(&mut self, packet: &[u8], now: Instant) {
        self.router.handle_inner(packet, now, &mut self.out);
        self.collect();
    }

    pub(crate) fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.router
            .handle_datagram(from, datagram, now, &mut self.out);
        if self.out.has_waiting() {
            self.router.send_waiting(now, &mut self.out);
        }
        self.collect();
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.router.handle_timeout(now, &mut self.out);
        self.collect();
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub(crate) fn poll_deliver(&mut self) -> Option<Vec<u8>> {
        self.delivers.pop_front()
    }

    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn collect(&mut self) {
        let transmits = self.out.trains(1, 0).map(|train| Transmit {
            to: train.to,
            payload: train.bytes.to_vec(),
        });
        self.transmits.extend(transmits);
        self.delivers.extend(self.out.packets().map(<[u8]>::to_vec));
        self.events
            .extend(std::iter::from_fn(|| self.out.poll_event()));
        self.out.clear();
    }
}

impl<P: Protocol> Deref for Node<P> {
    type Target = Router<P>;

    fn deref(&self) -> &Router<P> {
        &self.router
    }
}
