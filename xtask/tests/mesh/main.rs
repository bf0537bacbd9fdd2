//! The packet path of a node on real TUN devices, with every lack of an offload.
//!
//! Without the usual test harness, whose threads forbid entering a user namespace. As there, words
//! on the command line select tests by a part of their name.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};

use fed_testkit::{Host, Lab};
use serde::Deserialize;

/// What each node does without.
const TESTS: &[(&str, &[&str])] = &[
    ("streams_and_datagrams_pass_with_all_offloads", &[]),
    ("they_pass_without_offloads_of_the_tun", &["tun"]),
    (
        "they_pass_without_offloads_of_udp",
        &["udp-send", "udp-receive"],
    ),
    ("they_pass_without_any", &["tun", "udp-send", "udp-receive"]),
];

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
    let mut failed = 0;
    for (name, without) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        let passed = std::panic::catch_unwind(|| traffic_passes(without)).is_ok();
        failed += i32::from(!passed);
        let verdict = if passed { "ok" } else { "FAILED" };
        say(&format!("test {name} ... {verdict}"));
    }
    ExitCode::from(u8::from(failed > 0))
}

fn traffic_passes(without: &[&str]) {
    let lab = Lab::builder().host("a").host("b").start().unwrap();
    let [a, b] = ["a", "b"].map(|name| lab.host(name));
    let (mut first, mut second) = (Node::start(a, 1, without), Node::start(b, 2, without));
    let (to_first, to_second) = (first.line(a, 1), second.line(b, 2));
    first.tell(&to_second);
    second.tell(&to_first);
    let mut server = second
        .python(b, SERVER)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    let output = server.stdout.take().unwrap();
    BufReader::new(output).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    let client = first.python(a, CLIENT).status().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(client.success(), "without {without:?}: {client}");
}

#[derive(Deserialize)]
struct Ready {
    public_key: String,
    port: u16,
    pid: u32,
}

struct Node {
    child: Child,
    stdin: ChildStdin,
    ready: Ready,
    _scratch: tempfile::TempDir,
}

impl Node {
    fn start(host: &Host, number: u8, without: &[&str]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut child = host
            .command(env!("CARGO_BIN_EXE_mesh-peer"))
            .args([
                "--address",
                &format!("fd00:0:0:{number}::1"),
                "--mtu",
                "1420",
            ])
            .args(["--listen", &format!("{}:0", host.addr4()), "--scratch"])
            .arg(scratch.path())
            .args(without.iter().flat_map(|offload| ["--without", offload]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
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
        write!(self.stdin, "{peer}\n\n").unwrap();
    }

    /// Python in the sandbox's network.
    fn python(&self, host: &Host, script: &str) -> Command {
        let mut command = host.command("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.ready.pid));
        command.args(["timeout", "120", "python3", "-c", script]);
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
