//! One end of a mesh, for `cargo xtask bench mesh`: the sandbox, router and packet path of a node,
//! with nothing around them.
//!
//! It prints a line `{"public_key", "port", "pid"}`, where `pid` is the first process of the
//! sandbox, and reads lines `PUBLIC_KEY ENDPOINT[,ENDPOINT…] PREFIX…`, one for each peer, which count
//! from an empty line on. Whenever another address of a peer is sent to it prints a line `{"path"}`, and
//! whenever a path is found to be wider or narrower a line `{"path_mtu"}`. It ends when its standard
//! input does, and prints a line `{"losses", "offloads", "handshakes", "drops"}` then: what the path
//! lost, which offloads are in use, and what has been counted of its peers.

#![expect(clippy::print_stdout, reason = "its output is read by the benchmark")]

mod swarm;

use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use fed_mesh::{Event, KEEPALIVE, PeerConfig, PeerStatus, PrivateKey, Router};
use fed_sandbox::{SandboxSpec, TunSpec};
use fed_tun::{Driver, Offloads};

/// A packet by itself is written to the TUN as a note and its bytes.
const SLICES_OF_ONE: u32 = 2;

/// One end of a mesh.
#[derive(Parser)]
struct Arguments {
    /// The inner address, of a /48 that is routed into the mesh
    #[arg(long)]
    address: Ipv6Addr,
    /// The largest inner packet, in bytes
    #[arg(long)]
    mtu: u16,
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// An empty folder
    #[arg(long)]
    scratch: PathBuf,
    /// Be so many nodes in one process instead, without devices, that only keep in touch
    #[arg(long)]
    swarm: Option<usize>,
    /// Do without this offload of the kernel
    #[arg(long)]
    without: Vec<Offload>,
    /// Have the kernel refuse what is joined for the TUN
    #[arg(long)]
    refuse_joined: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Offload {
    Tun,
    TunUdp,
    UdpSend,
    UdpReceive,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(nodes) = arguments.swarm {
        return swarm::run(nodes, arguments.listen);
    }
    let udp = UdpSocket::bind(arguments.listen)
        .with_context(|| format!("cannot listen at {}", arguments.listen))?;
    // Before the runtime: the sandbox is made by a process with one thread.
    let sandbox = fed_sandbox::spawn(&SandboxSpec {
        hostname: "mesh-peer".to_owned(),
        tun: TunSpec {
            name: "fed0".to_owned(),
            address: arguments.address,
            prefix_len: 48,
            mtu: arguments.mtu.into(),
        },
        read_only: vec!["/usr".into()],
        scratch: arguments.scratch.clone(),
        own_addresses: Vec::new(),
        quotas: None,
        hosts: Vec::new(),
    })?;
    if arguments.refuse_joined {
        fed_testkit::refuse_long_writev(SLICES_OF_ONE).context("cannot refuse what is joined")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(&arguments, udp, sandbox))
}

async fn serve(arguments: &Arguments, udp: UdpSocket, sandbox: fed_sandbox::Sandbox) -> Result<()> {
    let (pid, port) = (sandbox.pid(), udp.local_addr()?.port());
    let (tun, inner) = sandbox.into_parts();
    let key = PrivateKey::generate();
    let public_key = key.public_key().to_string();
    let router = Router::new(key, Instant::now()).with_mtu(arguments.mtu.into());
    let has = |offload| !arguments.without.contains(&offload);
    let offloads = Offloads {
        tun: has(Offload::Tun),
        tun_udp: has(Offload::TunUdp),
        udp_send: has(Offload::UdpSend),
        udp_receive: has(Offload::UdpReceive),
    };
    let handle = Driver::start_with(tun, udp, router, offloads)?;
    let ready = serde_json::json!({ "public_key": public_key, "port": port, "pid": pid });
    println!("{ready}");
    let mut events = handle.events()?;
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            let line = match event {
                Event::PathMtuChanged { mtu, .. } => serde_json::json!({ "path_mtu": mtu }),
                Event::PathChanged { to, .. } => serde_json::json!({ "path": to.address() }),
                Event::HandshakeCompleted { .. }
                | Event::PathNarrow { .. }
                | Event::PeerSilent { .. }
                | Event::PeerReturned { .. } => continue,
            };
            // Nobody needs to listen.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    });
    // Reading blocks, and nothing tells when it would not.
    let (tell, mut lines) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lock().lines();
        while let Some(Ok(line)) = lines.next() {
            if tell.send(line).is_err() {
                break;
            }
        }
    });
    let mut peers = Vec::new();
    while let Some(line) = lines.recv().await {
        if line.is_empty() {
            handle.set_peers(std::mem::take(&mut peers)).await?;
        } else {
            peers.push(peer(&line)?);
        }
    }
    let status = handle.status().await?;
    let used = status.offloads;
    let offloads = BTreeMap::from([
        ("tun", used.tun),
        ("tun-udp", used.tun_udp),
        ("udp-send", used.udp_send),
        ("udp-receive", used.udp_receive),
    ]);
    let losses = BTreeMap::from(status.losses.named());
    let peers = handle.peers().await?;
    let handshakes: u64 = peers.iter().map(PeerStatus::handshakes).sum();
    let mut drops = BTreeMap::new();
    for (reason, count) in peers.iter().flat_map(|peer| peer.drops.iter()) {
        *drops.entry(reason.name()).or_insert(0) += count;
    }
    let end = serde_json::json!({
        "losses": losses, "offloads": offloads, "handshakes": handshakes, "drops": drops,
    });
    // Nobody needs to listen.
    let _ = writeln!(std::io::stdout(), "{end}");
    // Dropped only now: the sandbox ends with it.
    drop(inner);
    Ok(())
}

/// A peer from its line.
fn peer(line: &str) -> Result<PeerConfig> {
    let mut words = line.split_whitespace();
    let (Some(key), Some(endpoints)) = (words.next(), words.next()) else {
        bail!("{line:?} is no peer: `PUBLIC_KEY ENDPOINT[,ENDPOINT...] PREFIX...`");
    };
    let endpoints = endpoints.split(',').map(str::parse);
    let prefixes = words.map(|word| word.parse().map_err(anyhow::Error::from));
    Ok(PeerConfig {
        public_key: key.parse()?,
        endpoints: endpoints.collect::<Result<_, _>>()?,
        allowed_ips: prefixes.collect::<Result<_>>()?,
        keepalive: Some(KEEPALIVE),
    })
}
