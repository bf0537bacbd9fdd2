//! A stock WireGuard: boringtun's own tunnel, with nothing of ours but an answer to pings.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use fed_mesh::{Ipv6Prefix, PeerConfig, PrivateKey, PublicKey};

use crate::packet::ipv6;

/// The router that all stock peers talk to.
pub(crate) const HUB: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// Longer than any message here, in bytes.
const ROOM: usize = 10_000;
/// First bytes of messages.
const COOKIE: u8 = 3;
const DATA: u8 = 4;
const FRAME: u8 = 0x52;
/// Where an inner packet has its next header, that of pings, and where a ping says that it is one.
const NEXT_HEADER: usize = 6;
const EXPERIMENT: u8 = 253;
const KIND: usize = 43;
const PONG: u8 = 2;
/// Where the payload of a packet begins.
const PAYLOAD: usize = 40;

/// A stock peer of a router, which numbers the packets that it sends.
pub(crate) struct Stock {
    pub(crate) number: u8,
    pub(crate) key: PublicKey,
    /// Where its datagrams come from.
    pub(crate) address: SocketAddr,
    tunn: Tunn,
    pub(crate) sent: u64,
    /// Packets that have come, all in order.
    pub(crate) received: u64,
    /// Relayed frames that have come.
    pub(crate) frames: u64,
    /// Handshakes that it has begun and completed.
    pub(crate) rekeys: u64,
    /// Whether one is under way.
    pub(crate) calling: bool,
}

impl Stock {
    pub(crate) fn new(number: u8, hub: PublicKey) -> Self {
        let key = PrivateKey::generate();
        let secret = x25519::StaticSecret::from(key.expose_bytes());
        let hub = x25519::PublicKey::from(*hub.as_bytes());
        // It would find ten handshakes a second too many.
        let limiter = RateLimiter::new(&x25519::PublicKey::from(&secret), u64::MAX);
        Self {
            number,
            key: key.public_key(),
            address: address(number, 1),
            tunn: Tunn::new(
                secret,
                hub,
                None,
                None,
                number.into(),
                Some(Arc::new(limiter)),
            ),
            sent: 0,
            received: 0,
            frames: 0,
            rekeys: 0,
            calling: false,
        }
    }

    /// How the router is told of it.
    pub(crate) fn config(&self) -> PeerConfig {
        PeerConfig {
            public_key: self.key,
            endpoints: Vec::new(),
            allowed_ips: vec![Ipv6Prefix::host(inner(self.number))],
            keepalive: None,
        }
    }

    /// The next packet for the router, encrypted.
    pub(crate) fn send(&mut self) -> Vec<u8> {
        let packet = ipv6(inner(self.number), HUB, &self.sent.to_be_bytes());
        self.sent += 1;
        self.seal(&packet)
    }

    /// The first message of a handshake, whether or not there is a session.
    pub(crate) fn call(&mut self) -> Vec<u8> {
        self.calling = true;
        sent(&self.tunn.format_handshake_initiation(&mut [0; ROOM], true))
    }

    /// Takes a datagram in, and returns the answer.
    pub(crate) fn take(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        if datagram[0] == FRAME {
            self.frames += 1;
            return None;
        }
        let mut room = [0; ROOM];
        match self.tunn.decapsulate(None, datagram, &mut room) {
            TunnResult::WriteToNetwork(reply) => {
                if reply[0] == DATA && self.calling {
                    self.calling = false;
                    self.rekeys += 1;
                }
                Some(reply.to_vec())
            }
            TunnResult::WriteToTunnelV6(packet, _) if packet[NEXT_HEADER] == EXPERIMENT => {
                packet[KIND] = PONG;
                let pong = packet.to_vec();
                Some(self.seal(&pong))
            }
            TunnResult::WriteToTunnelV6(packet, _) => {
                let number = packet[PAYLOAD..].try_into().ok().map(u64::from_be_bytes);
                assert_eq!(number, Some(self.received), "to peer {}", self.number);
                self.received += 1;
                None
            }
            // The router wants to know that we are where we say.
            TunnResult::Done if datagram[0] == COOKIE => Some(self.call()),
            // A keepalive.
            TunnResult::Done => None,
            refusal @ (TunnResult::Err(_) | TunnResult::WriteToTunnelV4(..)) => {
                panic!("peer {} cannot take it: {refusal:?}", self.number)
            }
        }
    }

    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        sent(&self.tunn.encapsulate(packet, &mut [0; ROOM]))
    }
}

/// What is to be sent.
fn sent(result: &TunnResult<'_>) -> Vec<u8> {
    let TunnResult::WriteToNetwork(datagram) = result else {
        panic!("nothing to send but {result:?}");
    };
    datagram.to_vec()
}

/// Where peer `number` is after it has moved to its place `place`.
pub(crate) fn address(number: u8, place: u8) -> SocketAddr {
    SocketAddr::from(([198, 18, number, place], 51_820))
}

/// The inner address of peer `number`.
pub(crate) fn inner(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 1 + u16::from(number), 0, 0, 0, 1)
}
