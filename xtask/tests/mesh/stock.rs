//! A stock WireGuard, boringtun-cli, as a peer: it is installed with cargo where it is missing.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fed_mesh::{PrivateKey, PublicKey};
use fed_testkit::Host;

use crate::Node;

/// The release that fed is tested with.
const VERSION: &str = "0.7.1";
const INTERFACE: &str = "stock0";
const PORT: u16 = 51_820;

/// How long the daemon may take to be ready.
const START: Duration = Duration::from_secs(30);

/// A stock peer in the network of a host, which owns `fd00:0:0:2::/64`.
pub(crate) struct Stock {
    child: Child,
    key: PrivateKey,
}

impl Stock {
    /// Starts it as the only peer of `node`, which is at `other`.
    pub(crate) fn start(host: &Host, node: &Node, other: &Host) -> Self {
        let mut command = host.command(program());
        command.args(["--foreground", "--disable-drop-privileges", INTERFACE]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null());
        let stock = Self {
            child: child.spawn().unwrap(),
            key: PrivateKey::generate(),
        };
        let peer: PublicKey = node.ready.public_key.parse().unwrap();
        let (key, peer) = (hex(&stock.key.expose_bytes()), hex(peer.as_bytes()));
        let (address, port) = (other.addr4(), node.ready.port);
        let answer = configure(
            host,
            &format!(
                "set=1\nprivate_key={key}\nlisten_port={PORT}\npublic_key={peer}\n\
                 endpoint={address}:{port}\nallowed_ip=fd00:0:0:1::/64\n\n"
            ),
        );
        assert!(answer.starts_with("errno=0\n"), "{answer}");
        for words in [
            format!("address add fd00:0:0:2::1/48 dev {INTERFACE} nodad"),
            format!("link set {INTERFACE} mtu 1280 up"),
        ] {
            let status = host.command("ip").args(words.split(' ')).status().unwrap();
            assert!(status.success(), "ip {words}");
        }
        stock
    }

    /// How the node is told of it.
    pub(crate) fn line(&self, host: &Host) -> String {
        let key = self.key.public_key();
        format!("{key} {}:{PORT} fd00:0:0:2::/64", host.addr4())
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program, in `target/tools`.
fn program() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_mesh-peer"))
        .ancestors()
        .nth(2);
    let tools = target.unwrap().join("tools");
    // Does nothing where that version is there.
    let mut install = Command::new("cargo");
    install.args("install --quiet --locked boringtun-cli --version".split(' '));
    install.arg(VERSION).arg("--root").arg(&tools);
    install.arg("--target-dir").arg(tools.join("build"));
    let installed = install.status().unwrap();
    assert!(installed.success(), "boringtun-cli cannot be installed");
    tools.join("bin/boringtun-cli")
}

/// Says something over the socket that every user-space WireGuard has.
fn configure(host: &Host, text: &str) -> String {
    let path = host.path(&format!("/run/wireguard/{INTERFACE}.sock"));
    let deadline = Instant::now() + START;
    let mut socket = loop {
        match UnixStream::connect(&path) {
            Ok(socket) => break socket,
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    socket.write_all(text.as_bytes()).unwrap();
    let mut answer = [0; 64];
    let length = socket.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
