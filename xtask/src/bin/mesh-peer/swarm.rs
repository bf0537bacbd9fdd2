//! Many nodes in one process, for the memory of one node with as many peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fed_mesh::{Event, Output, PrivateKey, Router};
use tokio::net::UdpSocket;

/// How long to sleep without a deadline.
const IDLE: Duration = Duration::from_secs(1);

/// Prints the key and the port of each node in a line, reads the line of the one peer of all, and
/// prints `connected` once all of them have made a handshake with it.
pub(crate) fn run(nodes: usize, listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut members = Vec::new();
        for _ in 0..nodes {
            let udp = UdpSocket::bind(SocketAddr::new(listen.ip(), 0)).await?;
            let router = Router::new(PrivateKey::generate(), Instant::now());
            println!("{} {}", router.public_key(), udp.local_addr()?.port());
            members.push((udp, router));
        }
        println!();
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
        let peer = crate::peer(&line)?;
        let missing = Arc::new(AtomicUsize::new(nodes));
        for (udp, mut router) in members {
            let mut out = Output::default();
            router.set_peers(vec![peer.clone()], Instant::now(), &mut out)?;
            tokio::spawn(node(udp, router, out, Arc::clone(&missing)));
        }
        // Ends with its standard input, which blocks.
        let end = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
        end.await?.map(drop).context("cannot read on")
    })
}

async fn node(udp: UdpSocket, mut router: Router, mut out: Output, missing: Arc<AtomicUsize>) {
    let mut datagram = vec![0; 2048];
    loop {
        for train in out.trains(1, 0) {
            // What is lost is sent again by the protocol.
            let _ = udp.send_to(train.bytes, train.to).await;
        }
        while let Some(event) = out.poll_event() {
            if matches!(event, Event::HandshakeCompleted { .. })
                && missing.fetch_sub(1, Ordering::Relaxed) == 1
            {
                println!("connected");
            }
        }
        out.clear();
        let due = router.poll_timeout().map(|(at, _)| at);
        let due = due.unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            received = udp.recv_from(&mut datagram) => {
                if let Ok((length, from)) = received {
                    let now = Instant::now();
                    router.handle_datagram(from, &datagram[..length], now, &mut out);
                }
            }
            () = tokio::time::sleep_until(due.into()) => {
                router.handle_timeout(Instant::now(), &mut out);
            }
        }
    }
}
