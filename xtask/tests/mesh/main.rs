//! The packet path of a node on real TUN devices: with every lack of an offload, over a path that
//! narrows or is bad, where IPv4 or IPv6 is dead, and with a stock WireGuard.
//!
//! Without the usual test harness, whose threads forbid entering a user namespace. As there, words
//! on the command line select tests by a part of their name.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

mod families;
mod firewall;
mod refusal;
mod rekey;
mod roaming;
mod stock;

use fed_testkit::wan::{Cut, LinkSpec};
use fed_testkit::{Host, Lab};
use serde::Deserialize;
use stock::Stock;

const TESTS: &[(&str, fn())] = &[
    ("streams_and_datagrams_pass_with_all_offloads", || {
        traffic_passes(&[]);
    }),
    ("they_pass_without_offloads_of_the_tun", || {
        traffic_passes(&["tun"]);
    }),
    ("they_pass_without_the_tuns_offload_of_udp", || {
        traffic_passes(&["tun-udp"]);
    }),
    (
        "they_pass_where_the_tun_refuses_joined_packets",
        traffic_passes_a_tun_that_refuses,
    ),
    ("they_pass_without_offloads_of_udp", || {
        traffic_passes(&["udp-send", "udp-receive"]);
    }),
    (
        "a_way_that_passes_none_together_costs_nobody_else",
        refusal::costs_nobody_else,
    ),
    ("they_pass_without_any", || {
        traffic_passes(&["tun", "udp-send", "udp-receive"]);
    }),
    ("a_stream_follows_its_path", a_stream_follows_its_path),
    ("a_stream_outlives_a_bad_path", a_stream_outlives_a_bad_path),
    (
        "a_stream_follows_hosts_that_move",
        roaming::a_stream_follows_its_hosts,
    ),
    (
        "one_live_family_of_addresses_is_enough",
        families::one_that_lives_is_enough,
    ),
    (
        "a_stream_outlives_its_family_of_addresses",
        families::a_stream_outlives_its_own,
    ),
    (
        "a_stock_wireguard_is_a_peer_like_others",
        a_stock_wireguard_is_a_peer_like_others,
    ),
];

/// Those of the long form.
const LONG: &[(&str, fn())] = &[(
    "a_stream_outlives_its_keys",
    rekey::a_stream_outlives_its_keys,
)];

/// Sends a stream to an echo and compares; then datagrams of all lengths up to more than the MTU.
const CLIENT: &str = r"
import os, socket, threading
stream = socket.create_connection(('fd00:0:0:2::1', 4000), 30)
sent = os.urandom(1 << 20) * 16
threading.Thread(target=lambda: (stream.sendall(sent), stream.shutdown(socket.SHUT_WR))).start()
back = b''.join(iter(lambda: stream.recv(1 << 20), b''))
assert back == sent, (len(back), len(sent))
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.connect(('fd00:0:0:2::1', 4000))
udp.settimeout(30)
for start in range(1, 3000, 100):
    batch = [bytes([n]) * (start + n % 3) for n in range(20)]
    for datagram in batch:
        udp.send(datagram)
    got = [udp.recv(65535) for _ in batch]
    assert got == batch, (start, [len(g) for g in got])
";

/// Sends many datagrams at once to an echo, and compares their bytes and order.
const TOGETHER: &str = r"
import os, socket
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.connect(('fd00:0:0:2::1', 4000))
udp.settimeout(30)
UDP_SEGMENT = 103
udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
for _ in range(20):
    sent = os.urandom(20_000)
    udp.send(sent)
    got = [udp.recv(65535) for _ in range(20)]
    assert all(len(datagram) == 1000 for datagram in got)
    assert b''.join(got) == sent
";

/// Keeps a stream busy until its segments are as large as asked for, each time a line says how
/// large: `least most`.
const FOLLOWER: &str = r"
import os, socket, sys, threading
stream = socket.create_connection(('fd00:0:0:2::1', 4000), 30)
stream.settimeout(None)
sent = os.urandom(1 << 18)
for line in sys.stdin:
    least, most = map(int, line.split())
    while True:
        threading.Thread(target=stream.sendall, args=(sent,)).start()
        assert stream.recv(len(sent), socket.MSG_WAITALL) == sent
        segment = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        if least <= segment <= most:
            break
    print(segment, flush=True)
";

/// Sends a megabyte to an echo and compares, for each line.
const ECHO_BY_LINE: &str = r"
import os, socket, sys, threading
stream = socket.create_connection(('fd00:0:0:2::1', 4000), 30)
stream.settimeout(None)
for line in sys.stdin:
    sent = os.urandom(1 << 20)
    threading.Thread(target=stream.sendall, args=(sent,)).start()
    assert stream.recv(len(sent), socket.MSG_WAITALL) == sent
    print('right', flush=True)
";

const SERVER: &str = r"
import socket, threading
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(('::', 4000))
def echo():
    while True:
        datagram, sender = udp.recvfrom(65535)
        udp.sendto(datagram, sender)
threading.Thread(target=echo, daemon=True).start()
listening = socket.create_server(('::', 4000), family=socket.AF_INET6)
print('ready', flush=True)
stream, _ = listening.accept()
while piece := stream.recv(1 << 20):
    stream.sendall(piece)
stream.shutdown(socket.SHUT_WR)
threading.Event().wait()
";

fn main() -> ExitCode {
    if let Err(error) = fed_testkit::enter() {
        say(&format!("cannot make hosts: {error}"));
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let chosen = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(*word));
    let long = std::env::var_os("FED_TEST_LONG").map(|_| LONG);
    let tests = TESTS.iter().chain(long.into_iter().flatten());
    let mut failed = 0;
    for (name, test) in tests.filter(|(name, _)| chosen(name)) {
        let passed = std::panic::catch_unwind(test).is_ok();
        failed += i32::from(!passed);
        let verdict = if passed { "ok" } else { "FAILED" };
        say(&format!("test {name} ... {verdict}"));
    }
    ExitCode::from(u8::from(failed > 0))
}

/// With all offloads but these: the others are in use then. Needs a kernel that has all.
fn traffic_passes(without: &[&str]) {
    let switches: Vec<_> = without.iter().flat_map(|off| ["--without", off]).collect();
    for end in after_traffic(&switches) {
        for (name, used) in &end.offloads {
            let needs_tun = name == "tun-udp";
            let off = without.contains(&name.as_str()) || (needs_tun && without.contains(&"tun"));
            assert_eq!(*used, !off, "{name} without {without:?}");
        }
    }
}

/// Packets that were joined in vain arrive one by one, none lost and in order, and from then on
/// none are joined.
fn traffic_passes_a_tun_that_refuses() {
    let [first, second] = after_traffic(&["--refuse-joined"]);
    // Whether the echo's datagrams were joined on their way back is up to chance.
    for (end, name) in [(&first, "tun"), (&second, "tun"), (&second, "tun-udp")] {
        assert!(!end.offloads[name], "{name} was never refused: {end:?}");
    }
}

/// Streams and datagrams between two nodes with these switches; what they say at their end.
fn after_traffic(switches: &[&str]) -> [End; 2] {
    let lab = Lab::builder().host("a").host("b").start().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    let (first, second) = nodes(&lab, 1420, switches);
    let server = Server::start(&second, b);
    // Linux before 6.11 sends none at once by a device without checksums.
    let together = (!switches.contains(&"tun")).then_some(TOGETHER);
    for script in std::iter::once(CLIENT).chain(together) {
        let client = first.python(a, script).status().unwrap();
        assert!(client.success(), "with {switches:?}: {client}");
    }
    drop(server);
    let ends = [first, second].map(Node::end);
    for end in &ends {
        assert_eq!(end.losses["tun-refused"], 0, "with {switches:?}: {end:?}");
    }
    ends
}

/// A path for jumbo frames that becomes one for Ethernet under a stream, without a word.
fn a_stream_follows_its_path() {
    let link = LinkSpec::new(Duration::from_millis(5), 1_000_000_000);
    let builder = Lab::builder().host("a").host("b").wan(link.clone());
    let lab = builder.start().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    for host in [a, b] {
        let mut command = host.command("ip");
        command.args(["link", "set", "wan0", "mtu", "9000"]);
        assert!(command.status().unwrap().success());
    }
    let (mut first, mut second) = nodes(&lab, 8940, &[]);
    for node in [&mut first, &mut second] {
        node.await_path_mtu(8940);
    }
    let _server = Server::start(&second, b);
    let mut follower = first.python(a, FOLLOWER);
    let pipes = follower.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut follower = pipes.spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap());
    let mut input = follower.stdin.take().unwrap();
    let mut segments = |asked: &str| {
        writeln!(input, "{asked}").unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "no segments of {asked} bytes");
    };
    segments("8000 9000");
    let narrow = LinkSpec {
        mtu: Some(1500),
        ..link
    };
    for (from, to) in [("a", "b"), ("b", "a")] {
        lab.wan().set_link(from, to, narrow.clone()).unwrap();
    }
    segments("1281 1440");
    for node in [&mut first, &mut second] {
        node.await_path_mtu(1440);
    }
    drop(input);
    assert!(follower.wait().unwrap().success());
}

/// A path that loses, repeats and reorders, and for some seconds carries nothing.
fn a_stream_outlives_a_bad_path() {
    let bad = LinkSpec {
        loss: 0.01,
        repeat: 0.05,
        jitter: Duration::from_millis(2),
        reorder: true,
        ..LinkSpec::new(Duration::from_millis(2), 100_000_000)
    };
    let builder = Lab::builder().host("a").host("b").wan(bad);
    let lab = builder.start().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    let (first, second) = nodes(&lab, 1420, &[]);
    let _server = Server::start(&second, b);
    let mut client = first.python(a, ECHO_BY_LINE);
    let pipes = client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = pipes.spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap());
    let mut input = client.stdin.take().unwrap();
    let mut await_right = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "right\n");
    };
    writeln!(input, "calm").unwrap();
    await_right();
    lab.wan().cut("a", "b", Cut::Everything).unwrap();
    writeln!(input, "cut").unwrap();
    // Longer than a path may be silent before others are looked for.
    std::thread::sleep(Duration::from_secs(4));
    lab.wan().cut("a", "b", Cut::Nothing).unwrap();
    await_right();
    writeln!(input, "healed").unwrap();
    await_right();
    drop(input);
    assert!(client.wait().unwrap().success());
    let counters = lab.wan().counters().unwrap();
    for (from, to) in [("a", "b"), ("b", "a")] {
        let way = counters.between(from, to).unwrap();
        let seen = [way.dropped_loss, way.repeated, way.dropped_cut];
        assert!(seen.iter().all(|count| *count > 0), "{way:?}");
    }
}

/// Streams and datagrams from either side.
fn a_stock_wireguard_is_a_peer_like_others() {
    let lab = Lab::builder().host("a").host("b").start().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    let mut node = Node::start(a, 1, 1280, &[]);
    let stock = Stock::start(b, &node, a);
    node.tell(&stock.line(b));
    let python = |script: &str| {
        let mut command = b.command("timeout");
        command.args(["120", "python3", "-c", script]);
        command
    };
    // boringtun-cli works on several threads, so datagrams change their order in it.
    let unordered = CLIENT.replace("assert got == batch", "assert sorted(got) == sorted(batch)");
    {
        let _server = Server::run(python(SERVER));
        let client = node.python(a, &unordered).status().unwrap();
        assert!(client.success(), "towards the stock peer: {client}");
    }
    let _server = Server::start(&node, a);
    let client = unordered.replace("fd00:0:0:2::1", "fd00:0:0:1::1");
    let client = python(&client).status().unwrap();
    assert!(client.success(), "from the stock peer: {client}");
}

/// A node on each host, told of the other.
fn nodes(lab: &Lab, mtu: u16, switches: &[&str]) -> (Node, Node) {
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    let start = |host, number| Node::start(host, number, mtu, switches);
    let (mut first, mut second) = (start(a, 1), start(b, 2));
    let (to_first, to_second) = (first.line(a, 1), second.line(b, 2));
    first.tell(&to_second);
    second.tell(&to_first);
    (first, second)
}

/// An echo of streams and datagrams in the sandbox of a node.
struct Server(Child);

impl Server {
    fn start(node: &Node, host: &Host) -> Self {
        Self::run(node.python(host, SERVER))
    }

    fn run(mut command: Command) -> Self {
        let mut server = Self(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut ready = String::new();
        let output = server.0.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Deserialize)]
struct Ready {
    public_key: String,
    port: u16,
    pid: u32,
}

/// What a node says at its end.
#[derive(Debug, Deserialize)]
struct End {
    losses: BTreeMap<String, u64>,
    offloads: BTreeMap<String, bool>,
    handshakes: u64,
    /// Of its peers, by reason.
    drops: BTreeMap<String, u64>,
}

struct Node {
    child: Child,
    /// The node ends when this is closed.
    stdin: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    ready: Ready,
    _scratch: tempfile::TempDir,
}

impl Node {
    fn start(host: &Host, number: u8, mtu: u16, switches: &[&str]) -> Self {
        let listen = SocketAddr::from((host.addr4(), 0));
        Self::start_at(listen, host, number, mtu, switches)
    }

    fn start_at(listen: SocketAddr, host: &Host, number: u8, mtu: u16, switches: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut child = host
            .command(env!("CARGO_BIN_EXE_mesh-peer"))
            .args([
                "--address",
                &format!("fd00:0:0:{number}::1"),
                "--mtu",
                &mtu.to_string(),
            ])
            .args(["--listen", &listen.to_string(), "--scratch"])
            .arg(scratch.path())
            .args(switches)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        Self {
            output,
            stdin: child.stdin.take(),
            child,
            ready: serde_json::from_str(&line).unwrap(),
            _scratch: scratch,
        }
    }

    /// How the other node is told of this one.
    fn line(&self, host: &Host, number: u8) -> String {
        let Ready {
            public_key, port, ..
        } = &self.ready;
        format!(
            "{public_key} {}:{port} fd00:0:0:{number}::/64",
            host.addr4()
        )
    }

    fn tell(&mut self, peer: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        write!(stdin, "{peer}\n\n").unwrap();
    }

    /// Has it end.
    fn end(mut self) -> End {
        drop(self.stdin.take());
        let said = std::io::read_to_string(&mut self.output).unwrap();
        serde_json::from_str(said.lines().last().unwrap()).unwrap()
    }

    /// Waits until its path to the other has this MTU.
    fn await_path_mtu(&mut self, mtu: usize) {
        self.await_line(&format!("{{\"path_mtu\":{mtu}}}\n"));
    }

    /// Waits until it says this.
    fn await_line(&mut self, expected: &str) {
        let mut line = String::new();
        while line != expected {
            line.clear();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "the node ended");
        }
    }

    /// Python in the sandbox's network.
    fn python(&self, host: &Host, script: &str) -> Command {
        self.python_for(Duration::from_secs(120), host, script)
    }

    /// Python that is ended after so long.
    fn python_for(&self, most: Duration, host: &Host, script: &str) -> Command {
        let mut command = host.command("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.ready.pid));
        command.args(["timeout", &most.as_secs().to_string()]);
        command.args(["python3", "-c", script]);
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the caller reads our output");
}
