//! The implementations of WireGuard that are measured: how each is had and started.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use boringtun::x25519::{PublicKey, StaticSecret};
use fed_testkit::Host;
use serde::Deserialize;

use super::ground::{ADDRESSES, HOSTS, run};
use crate::console;

/// The name of ours.
pub(super) const FED: &str = "fed";
pub(super) const BORINGTUN: &str = "boringtun-cli";
pub(super) const GOTATUN: &str = "gotatun-cli";

/// How long a daemon may take to be ready.
const START: Duration = Duration::from_secs(10);

/// Programs from the registry: package, version, program, and the largest MTU of a link that it is
/// up to. gotatun 0.10.2 stalls with frames of 9000 bytes.
const INSTALLED: [(&str, &str, &str, u16); 2] = [
    (BORINGTUN, "0.7.1", "boringtun-cli", u16::MAX),
    (GOTATUN, "0.10.2", "gotatun", 1500),
];

/// One implementation.
#[derive(Clone, Debug)]
pub(super) struct Implementation {
    pub(super) name: String,
    /// The program and its arguments.
    command: Vec<String>,
    /// The largest MTU of a link that it is up to, in bytes.
    pub(super) mtu_max: u16,
}

impl Implementation {
    /// The program.
    pub(super) fn program(&self) -> &str {
        &self.command[0]
    }
}

/// Reads `NAME=COMMAND`.
pub(super) fn from_command(text: &str) -> Result<Implementation, String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && !command.trim().is_empty() => {
            Ok(Implementation {
                name: name.to_owned(),
                command: command.split_whitespace().map(ToOwned::to_owned).collect(),
                mtu_max: u16::MAX,
            })
        }
        _ => Err("write NAME=COMMAND, such as wireguard-go='wireguard-go -f'".to_owned()),
    }
}

/// Ours, built as it is released.
pub(super) fn fed(root: &Path) -> Result<Implementation> {
    console::progress("building the mesh-peer");
    let built = Command::new("cargo")
        .args("build --quiet --release --package xtask --bin mesh-peer".split(' '))
        .current_dir(root)
        .status()?;
    ensure!(built.success(), "the mesh-peer cannot be built");
    Ok(Implementation {
        name: FED.to_owned(),
        command: vec![text(&root.join("target/release/mesh-peer"))],
        mtu_max: u16::MAX,
    })
}

/// The programs from the registry.
pub(super) fn installed(root: &Path) -> Result<Vec<Implementation>> {
    let installed = |&(package, version, program, mtu_max): &(&str, &str, &str, u16)| {
        let program = text(&install(root, package, version)?.join(program));
        let options = ["--foreground", "--disable-drop-privileges"];
        Ok(Implementation {
            name: package.to_owned(),
            command: std::iter::once(program)
                .chain(options.map(ToOwned::to_owned))
                .collect(),
            mtu_max,
        })
    };
    INSTALLED.iter().map(installed).collect()
}

/// Installs a package from the registry where it is missing, and gives the folder of its programs.
pub(super) fn install(root: &Path, package: &str, version: &str) -> Result<PathBuf> {
    console::progress(&format!("looking for {package} {version}"));
    let folder = root.join("target/bench/peers");
    // Does nothing where that version is there.
    let status = Command::new("cargo")
        .args(["install", "--quiet", "--locked", package])
        .args(["--version", version])
        .arg("--root")
        .arg(&folder)
        .arg("--target-dir")
        .arg(root.join("target/bench/build"))
        .status()?;
    ensure!(status.success(), "{package} cannot be installed");
    Ok(folder.join("bin"))
}

/// An implementation between two hosts.
pub(super) struct Tunnel {
    name: String,
    ends: [End; 2],
}

/// One end of a tunnel.
pub(super) struct End {
    /// The inner address.
    pub(super) address: String,
    /// The option of nsenter that leads where the inner address is.
    enter: String,
    /// Processes that carry the traffic, as this process sees them.
    pub(super) processes: Vec<u32>,
    daemon: Daemon,
}

impl Tunnel {
    /// Starts both ends. `number` tells the implementations in one pair of hosts apart.
    pub(super) fn start(
        implementation: &Implementation,
        number: usize,
        hosts: [&Host; 2],
        mtu: u16,
    ) -> Result<Self> {
        let ends = if implementation.name == FED {
            start_fed(implementation, number, hosts, mtu)?
        } else {
            start_other(implementation, number, hosts, mtu)?
        };
        Ok(Self {
            name: implementation.name.clone(),
            ends,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The ends at both hosts.
    pub(super) fn ends(&self) -> &[End; 2] {
        &self.ends
    }
}

impl End {
    /// A command that runs a program beside this end.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(&self.enter).arg(program);
        command
    }

    /// Tells an end of ours who its peers are.
    pub(super) fn tell(&mut self, peers: &[PeerLine]) -> Result<()> {
        let lines: String = peers.iter().map(PeerLine::text).collect();
        let stdin = self.daemon.stdin.as_mut().expect("ours reads its peers");
        writeln!(stdin, "{lines}").context("the mesh-peer has ended")
    }
}

/// A program that is killed with this.
struct Daemon {
    child: Child,
    /// Kept open: ours ends when it closes.
    stdin: Option<ChildStdin>,
    _scratch: Option<tempfile::TempDir>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What our program says when it is ready.
#[derive(Deserialize)]
pub(super) struct Ready {
    pub(super) public_key: String,
    pub(super) port: u16,
}

/// A peer, as our program reads it.
pub(super) struct PeerLine(String);

impl PeerLine {
    pub(super) fn new(key: &str, address: &str, port: &str, prefix: &str) -> Self {
        Self(format!("{key} {address}:{port} {prefix}\n"))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

fn inner(number: usize, end: usize) -> String {
    format!("fd00:fed:{number}:{}::", end + 1)
}

fn start_fed(
    implementation: &Implementation,
    number: usize,
    hosts: [&Host; 2],
    mtu: u16,
) -> Result<[End; 2]> {
    let (mut first, first_ready) = start_node(implementation, number, 0, hosts[0], mtu)?;
    let (mut second, second_ready) = start_node(implementation, number, 1, hosts[1], mtu)?;
    let line = |ready: &Ready, end: usize| {
        let prefix = format!("{}/64", inner(number, end));
        let port = ready.port.to_string();
        PeerLine::new(&ready.public_key, ADDRESSES[end], &port, &prefix)
    };
    first.tell(&[line(&second_ready, 1)])?;
    second.tell(&[line(&first_ready, 0)])?;
    Ok([first, second])
}

/// Starts one node of ours, which has no peers yet.
pub(super) fn start_node(
    implementation: &Implementation,
    number: usize,
    end: usize,
    host: &Host,
    mtu: u16,
) -> Result<(End, Ready)> {
    let scratch = tempfile::tempdir()?;
    let address = format!("{}1", inner(number, end));
    let mut child = host
        .command(implementation.program())
        .args(["--address", &address, "--mtu", &mtu.to_string()])
        .args(["--listen", &format!("{}:0", ADDRESSES[end])])
        .arg("--scratch")
        .arg(scratch.path())
        .args(&implementation.command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line)?;
    let ready: Ready = serde_json::from_str(&line).context("the mesh-peer did not start")?;
    let processes = processes(host, &text(scratch.path()))?;
    let &[_, init] = &processes[..] else {
        bail!("a node has two processes, not {processes:?}");
    };
    let end = End {
        address,
        enter: format!("--net=/proc/{init}/ns/net"),
        processes,
        daemon: Daemon {
            stdin: child.stdin.take(),
            _scratch: Some(scratch),
            child,
        },
    };
    Ok((end, ready))
}

fn start_other(
    implementation: &Implementation,
    number: usize,
    hosts: [&Host; 2],
    mtu: u16,
) -> Result<[End; 2]> {
    let secrets = [(); 2].map(|()| StaticSecret::from(rand::random::<[u8; 32]>()));
    let port = 51_820 + number;
    let mut ends = Vec::new();
    for (end, host) in hosts.into_iter().enumerate() {
        let interface = format!("bench{number}{}", HOSTS[end]);
        if implementation.name == BORINGTUN {
            // It asks for the MTU once, at its start, and reads no longer packets ever after.
            run(
                host,
                &format!("ip tuntap add dev {interface} mode tun multi_queue"),
            )?;
            run(host, &format!("ip link set {interface} mtu {mtu}"))?;
        }
        let child = host
            .command(implementation.program())
            .args(&implementation.command[1..])
            .arg(&interface)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let daemon = Daemon {
            child,
            stdin: None,
            _scratch: None,
        };
        let other = 1 - end;
        let configuration = format!(
            "set=1\nprivate_key={}\nlisten_port={port}\nreplace_peers=true\npublic_key={}\n\
             endpoint={}:{port}\nallowed_ip={}/64\n\n",
            hex(&secrets[end].to_bytes()),
            hex(PublicKey::from(&secrets[other]).as_bytes()),
            ADDRESSES[other],
            inner(number, other),
        );
        configure(host, &interface, &configuration)?;
        let address = format!("{}1", inner(number, end));
        run(
            host,
            &format!("ip address add {address}/48 dev {interface} nodad"),
        )?;
        run(host, &format!("ip link set {interface} mtu {mtu} up"))?;
        ends.push(End {
            address,
            enter: format!("--net=/proc/{}/ns/net", host.pid()),
            processes: processes(host, &interface)?,
            daemon,
        });
    }
    Ok(ends.try_into().ok().expect("an end for each host"))
}

/// Sends a configuration over the socket that every user-space WireGuard has.
fn configure(host: &Host, interface: &str, configuration: &str) -> Result<()> {
    // By its own name: a link would lead to the machine's own.
    let path = host.path(&format!("/run/wireguard/{interface}.sock"));
    let mut socket = connect(&path)?;
    socket.write_all(configuration.as_bytes())?;
    let mut answer = [0; 64];
    let length = socket.read(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer[..length]);
    ensure!(
        answer.starts_with("errno=0"),
        "its configuration is refused: {answer}"
    );
    Ok(())
}

fn connect(path: &PathBuf) -> Result<UnixStream> {
    let deadline = Instant::now() + START;
    loop {
        match UnixStream::connect(path) {
            Ok(socket) => return Ok(socket),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(error).with_context(|| text(path)),
        }
    }
}

/// The processes of a host with `word` among their arguments.
fn processes(host: &Host, word: &str) -> Result<Vec<u32>> {
    let processes = host.processes()?.into_iter();
    let named = processes.filter(|process| process.cmdline.split(' ').any(|part| part == word));
    Ok(named.map(|process| process.pid).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
