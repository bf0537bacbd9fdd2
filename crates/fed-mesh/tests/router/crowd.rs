//! Many stock peers of one router at once, moved by three threads as a driver does it: traffic in
//! both directions, rekeys, roaming, relayed frames, and peers that come and go.
//!
//! Whatever order the threads take the locks in (a peer's, then that of the links), nobody waits for
//! ever, and no packet is lost, doubled or overtaken.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use fed_mesh::{KEEPALIVE, Output, PeerConfig, PrivateKey, PublicKey, Router};

use crate::packet::ipv6;
use crate::stock::{HUB, Stock, address, inner};

const PEERS: u8 = 12;
/// Packets from each peer, and to each.
const PACKETS: u64 = 1200;
/// After so many packets a peer renews its session, moves, and sends another peer a frame.
const REKEY_EVERY: u64 = 60;
const MOVE_EVERY: u64 = 35;
const FRAME_EVERY: u64 = 10;
/// Packets for one peer in a row.
const BURST: u64 = 6;
/// Ends a test that hangs; nothing is measured by it.
const HANG: Duration = Duration::from_secs(120);

type Datagram = (SocketAddr, Vec<u8>);

/// All threads of the hub.
struct Hub {
    router: RwLock<Router>,
    /// To the peers, by number.
    wires: Vec<Sender<Vec<u8>>>,
    ended: AtomicBool,
}

impl Hub {
    fn transmit(&self, out: &Output) {
        for train in out.trains(64, 65_000) {
            let IpAddr::V4(to) = train.to.ip() else {
                panic!("nobody is at {}", train.to);
            };
            for datagram in train.bytes.chunks(train.segment) {
                // A peer that has all it waits for may have gone.
                let _ = self.wires[usize::from(to.octets()[2])].send(datagram.to_vec());
            }
        }
    }

    /// Sends every peer its packets, in bursts that take turns.
    fn outbound(&self) {
        let mut out = Output::default();
        for first in (0..PACKETS).step_by(usize::try_from(BURST).unwrap()) {
            let router = self.router.read().unwrap();
            let mut lane = router.outbound(Instant::now());
            for number in (0..PEERS).map(|peer| (peer * 5) % PEERS) {
                for sequence in first..(first + BURST).min(PACKETS) {
                    lane.push(&ipv6(HUB, inner(number), &sequence.to_be_bytes()), &mut out);
                }
            }
            drop(lane);
            drop(router);
            self.transmit(&out);
            out.clear();
        }
    }

    /// Takes in what the peers send until they have ended, and returns the packets of each.
    fn inbound(&self, arrivals: &Receiver<Datagram>) -> BTreeMap<u8, u64> {
        let mut out = Output::default();
        let mut delivered = BTreeMap::new();
        while let Ok(first) = arrivals.recv() {
            let now = Instant::now();
            let router = self.router.read().unwrap();
            let mut lane = router.inbound(now);
            for (from, datagram) in std::iter::once(first).chain(arrivals.try_iter().take(63)) {
                lane.push(from, &datagram, &mut out);
            }
            drop(lane);
            drop(router);
            self.transmit(&out);
            for packet in out.packets() {
                let number = packet[15] - 1;
                let sequence = u64::from_be_bytes(packet[40..].try_into().unwrap());
                let next = delivered.entry(number).or_insert(0);
                assert_eq!(sequence, *next, "from peer {number}");
                *next += 1;
            }
            let waiting = out.has_waiting();
            out.clear();
            if waiting {
                let mut router = self.router.write().unwrap();
                router.send_waiting(now, &mut out);
                self.transmit(&out);
                out.clear();
            }
        }
        delivered
    }

    /// What the task of a driver does: timers, looks, and other sets of peers.
    fn command(&self, peers: &[PeerConfig]) {
        let mut out = Output::default();
        for round in 0_u8.. {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let now = Instant::now();
            let reader = self.router.read().unwrap();
            assert!(reader.poll_timeout().is_some());
            assert!(reader.peers(now).len() >= peers.len());
            drop(reader);
            let mut router = self.router.write().unwrap();
            if round.is_multiple_of(2) {
                router.handle_timeout(now, &mut out);
            } else {
                let strangers = (0..round % 5).map(|_| stranger());
                let known = peers.iter().cloned().map(|mut peer| {
                    let number = u8::try_from(peer.allowed_ips[0].addr().segments()[3] - 1);
                    peer.endpoints = vec![address(number.unwrap(), round)];
                    peer
                });
                let set = known.chain(strangers).collect();
                router.set_peers(set, now, &mut out).unwrap();
            }
            self.transmit(&out);
            out.clear();
            drop(router);
            std::thread::yield_now();
        }
    }
}

/// A peer that never answers, and is called by way of all others.
fn stranger() -> PeerConfig {
    PeerConfig {
        public_key: PrivateKey::generate().public_key(),
        endpoints: Vec::new(),
        allowed_ips: Vec::new(),
        keepalive: Some(KEEPALIVE),
    }
}

/// One peer in its thread: sends, renews, moves and passes frames on until all is done.
fn speak(stock: &mut Stock, keys: &[PublicKey], wire: &Receiver<Vec<u8>>, hub: &Sender<Datagram>) {
    loop {
        let next = if stock.sent < PACKETS {
            hub.send((stock.address, stock.send())).unwrap();
            perturb(stock, keys, hub);
            wire.try_recv().map_err(|_| RecvTimeoutError::Timeout)
        } else if stock.received < PACKETS || stock.calling {
            wire.recv_timeout(HANG)
        } else {
            return;
        };
        for datagram in next.into_iter().chain(wire.try_iter()) {
            if let Some(answer) = stock.take(&datagram) {
                hub.send((stock.address, answer)).unwrap();
            }
        }
    }
}

fn perturb(stock: &mut Stock, keys: &[PublicKey], hub: &Sender<Datagram>) {
    let due = |every: u64| stock.sent.is_multiple_of(every);
    let (rekey, moves, frame) = (due(REKEY_EVERY), due(MOVE_EVERY), due(FRAME_EVERY));
    if rekey && !stock.calling {
        hub.send((stock.address, stock.call())).unwrap();
    }
    if moves {
        let place = u8::try_from(2 + stock.sent / MOVE_EVERY % 250).unwrap();
        stock.address = address(stock.number, place);
    }
    if frame {
        let to = keys[usize::from(stock.number + 1) % keys.len()];
        let mut frame = vec![0x52, 0, 0, 0];
        frame.extend(&to.as_bytes()[..6]);
        frame.extend(&stock.key.as_bytes()[..6]);
        frame.extend([4; 40]);
        hub.send((stock.address, frame)).unwrap();
    }
}

/// Opens the session of a peer.
fn connect(stock: &mut Stock, router: &mut Router, now: Instant) {
    let mut out = Output::default();
    let mut message = stock.call();
    while stock.calling {
        router.handle_datagram(stock.address, &message, now, &mut out);
        let answer = out.trains(1, 0).next().expect("the router answers");
        message = stock.take(answer.bytes).expect("so does the peer");
        out.clear();
    }
    router.handle_datagram(stock.address, &message, now, &mut out);
    // It asks whether the path works.
    for train in out.trains(1, 0) {
        let pong = stock.take(train.bytes).expect("a ping is answered");
        router.handle_datagram(stock.address, &pong, now, &mut Output::default());
    }
}

fn hub(stocks: &mut [Stock], key: PrivateKey) -> Router {
    let now = Instant::now();
    let mut router = Router::new(key, now);
    let peers = stocks.iter().map(Stock::config).collect();
    router
        .set_peers(peers, now, &mut Output::default())
        .unwrap();
    for stock in stocks {
        connect(stock, &mut router, now);
    }
    router
}

#[test]
fn a_crowd_neither_waits_for_ever_nor_loses_a_packet() {
    let key = PrivateKey::generate();
    let mut stocks: Vec<_> = (0..PEERS)
        .map(|number| Stock::new(number, key.public_key()))
        .collect();
    let router = RwLock::new(hub(&mut stocks, key));
    let keys: Vec<_> = stocks.iter().map(|stock| stock.key).collect();
    let configs: Vec<_> = stocks.iter().map(Stock::config).collect();
    let (wires, ends): (Vec<_>, Vec<_>) = (0..PEERS).map(|_| channel()).unzip();
    let (to_hub, arrivals) = channel();
    let ended = AtomicBool::new(false);
    let hub: &'static Hub = Box::leak(Box::new(Hub {
        router,
        wires,
        ended,
    }));
    // Whoever hangs cannot be joined: each tells when it has ended.
    let (tell, told) = channel();
    let mut threads: Vec<Box<dyn FnOnce() -> End + Send>> = vec![
        Box::new(|| {
            hub.outbound();
            End::Other
        }),
        Box::new(move || End::Delivered(hub.inbound(&arrivals))),
    ];
    for (mut stock, wire) in stocks.into_iter().zip(ends) {
        let (keys, to_hub) = (keys.clone(), to_hub.clone());
        threads.push(Box::new(move || {
            speak(&mut stock, &keys, &wire, &to_hub);
            End::Peer(Box::new(stock))
        }));
    }
    drop(to_hub);
    let count = threads.len();
    for thread in threads {
        let tell = tell.clone();
        std::thread::spawn(move || tell.send(thread()).expect("somebody waits"));
    }
    let commander = std::thread::spawn(move || hub.command(&configs));
    // When a thread panics, the others may wait for it; it has said why.
    drop(tell);
    let mut ends = Vec::new();
    while ends.len() < count {
        ends.push(told.recv_timeout(HANG).expect("all threads end"));
    }
    hub.ended.store(true, Ordering::Relaxed);
    commander.join().unwrap();

    let mut frames = 0;
    for end in ends {
        match end {
            End::Other => {}
            End::Delivered(delivered) => {
                let expected: BTreeMap<_, _> = (0..PEERS).map(|peer| (peer, PACKETS)).collect();
                assert_eq!(delivered, expected);
            }
            End::Peer(stock) => {
                assert_eq!(stock.received, PACKETS);
                assert!(stock.rekeys > 1, "peer {} had no rekey", stock.number);
                frames += stock.frames;
            }
        }
    }
    assert!(frames > 0, "no frame was relayed");
}

/// What a thread ends with.
enum End {
    Peer(Box<Stock>),
    Delivered(BTreeMap<u8, u64>),
    Other,
}

/// In every state of a handshake that either end could be in, packets pass at once.
#[test]
fn a_rekey_holds_nothing_up() {
    let key = PrivateKey::generate();
    let mut stock = Stock::new(0, key.public_key());
    let mut router = hub(std::slice::from_mut(&mut stock), key);
    let now = Instant::now();
    let mut out = Output::default();
    let mut sequence = 0_u64;
    let mut both_ways = |stock: &mut Stock, router: &mut Router| {
        let mut out = Output::default();
        let packet = ipv6(HUB, inner(0), &sequence.to_be_bytes());
        router.handle_inner(&packet, now, &mut out);
        sequence += 1;
        for train in out.trains(1, 0) {
            stock.take(train.bytes);
        }
        assert_eq!(stock.received, sequence);
        out.clear();
        router.handle_datagram(stock.address, &stock.send(), now, &mut out);
        assert_eq!(out.packets().len(), 1);
        // Pings of the router.
        for train in out.trains(1, 0) {
            stock.take(train.bytes);
        }
    };
    // More than the sessions that boringtun keeps of a peer.
    for _ in 0..20 {
        both_ways(&mut stock, &mut router);
        let mut message = stock.call();
        while stock.calling {
            both_ways(&mut stock, &mut router);
            router.handle_datagram(stock.address, &message, now, &mut out);
            both_ways(&mut stock, &mut router);
            let answer = out.trains(1, 0).next().expect("the router answers");
            message = stock.take(answer.bytes).expect("so does the peer");
            out.clear();
        }
        both_ways(&mut stock, &mut router);
        router.handle_datagram(stock.address, &message, now, &mut out);
        out.clear();
        both_ways(&mut stock, &mut router);
    }
    let status = &router.peers(now)[0];
    assert_eq!(status.handshakes(), 21);
    assert_eq!(status.drops.total(), 0, "{status:?}");
}
