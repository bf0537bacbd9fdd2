//! Two hosts, a pair of veth devices between them, and every implementation on both.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use fed_testkit::{Host, Lab};

use super::implementation::{Implementation, Tunnel};

/// The hosts' names.
pub(super) const HOSTS: [&str; 2] = ["a", "b"];

/// The hosts' addresses on the veth pair (RFC 5737).
pub(super) const ADDRESSES: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

/// What a pair of veth devices is like.
pub(super) struct Veth {
    pub(super) name: &'static str,
    /// The largest outer packet, in bytes.
    pub(super) mtu: u16,
    /// The largest packet in a tunnel over it, in bytes.
    pub(super) inner_mtu: u16,
    /// Whether the devices take many segments in one piece.
    pub(super) offloads: bool,
}

/// Two hosts with tunnels between them.
pub(super) struct Ground {
    name: &'static str,
    // Before the hosts: they end in them.
    tunnels: Vec<Tunnel>,
    _lab: Lab,
}

impl Ground {
    /// Makes the hosts, and starts every implementation that is up to such a link.
    pub(super) fn start(veth: &Veth, implementations: &[Implementation]) -> Result<Self> {
        let lab = HOSTS
            .iter()
            .fold(Lab::builder(), |lab, host| lab.host(host))
            .start()?;
        let hosts = HOSTS.map(|name| lab.host(name));
        connect(hosts, veth)?;
        let tunnels = implementations
            .iter()
            .enumerate()
            .filter(|(_, implementation)| veth.mtu <= implementation.mtu_max)
            .map(|(number, implementation)| {
                Tunnel::start(implementation, number, hosts, veth.inner_mtu)
                    .with_context(|| format!("cannot start {}", implementation.name))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            name: veth.name,
            tunnels,
            _lab: lab,
        })
    }

    pub(super) fn name(&self) -> &str {
        self.name
    }

    pub(super) fn tunnels(&self) -> impl Iterator<Item = (&str, &Tunnel)> {
        self.tunnels.iter().map(|tunnel| (tunnel.name(), tunnel))
    }
}

/// Joins two hosts by veth.
pub(super) fn connect(hosts: [&Host; 2], veth: &Veth) -> Result<()> {
    // From outside, where both hosts' processes have numbers.
    let mut add = Command::new("nsenter");
    add.arg(format!("--net=/proc/{}/ns/net", hosts[0].pid()));
    add.args("ip link add mesh0 type veth peer name mesh0 netns".split(' '));
    succeed(add.arg(hosts[1].pid().to_string()))?;
    for (host, address) in hosts.into_iter().zip(ADDRESSES) {
        run(host, &format!("ip address add {address}/24 dev mesh0"))?;
        run(host, &format!("ip link set mesh0 mtu {} up", veth.mtu))?;
        if !veth.offloads {
            let features = "tso gso gro tx rx tx-udp-segmentation".split(' ');
            let off = features.map(|feature| format!(" {feature} off"));
            run(
                host,
                &format!("ethtool -K mesh0{}", off.collect::<String>()),
            )?;
        }
    }
    Ok(())
}

/// Runs a command of words without spaces in a host.
pub(super) fn run(host: &Host, command: &str) -> Result<()> {
    let mut words = command.split(' ');
    let program = words.next().expect("a command has a first word");
    succeed(host.command(program).args(words))
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
