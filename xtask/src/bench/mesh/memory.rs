//! How much memory a node takes that has many peers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use fed_testkit::Lab;

use super::GROUNDS;
use super::ground::{ADDRESSES, HOSTS, connect};
use super::implementation::{self, PeerLine, start_node};

/// The peers of the node.
pub(super) const PEERS: usize = 200;

/// Starts a node with [`PEERS`] peers, each of which has made a handshake with it, and returns the
/// memory that its processes hold, in units of 10^6 bytes.
pub(super) fn measure(root: &Path) -> Result<f64> {
    let fed = implementation::fed(root)?;
    let lab = HOSTS
        .iter()
        .fold(Lab::builder(), |lab, host| lab.host(host))
        .start()?;
    let hosts = HOSTS.map(|name| lab.host(name));
    connect(hosts, &GROUNDS[0])?;
    let (mut node, ready) = start_node(&fed, 0, 0, hosts[0], GROUNDS[0].inner_mtu)?;

    let mut swarm = hosts[1]
        .command(fed.program())
        .args(["--address", "::1", "--mtu", "1280", "--scratch", "/"])
        .args(["--swarm", &PEERS.to_string()])
        .args(["--listen", &format!("{}:0", ADDRESSES[1])])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(swarm.stdout.take().expect("piped")).lines();
    let mut peers = Vec::new();
    while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
        let (key, port) = line.split_once(' ').context("the swarm says no key")?;
        let prefix = format!("fd00:fed:0:{:x}::/64", 0x100 + peers.len());
        peers.push(PeerLine::new(key, ADDRESSES[1], port, &prefix));
    }
    node.tell(&peers)?;
    let mut stdin = swarm.stdin.take().expect("piped");
    let prefix = "fd00:fed:0:1::/64";
    let line = PeerLine::new(
        &ready.public_key,
        ADDRESSES[0],
        &ready.port.to_string(),
        prefix,
    );
    stdin.write_all(line.text().as_bytes())?;
    lines
        .next()
        .context("the swarm ended before all were connected")??;
    let held = node.processes.iter().map(|process| resident(*process));
    let held = held.sum::<Result<f64>>();
    drop(stdin);
    swarm.wait()?;
    held
}

/// The resident memory of a process, from `/proc/PID/status`.
fn resident(process: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("no VmRSS")? * 1024.0 / 1e6)
}
