//! What a supervisor and its node say to each other over the control socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use fed_core::Peer;
use fed_sandbox::Allowance;
use serde::{Deserialize, Serialize};

/// A node's first line on its standard output, when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// X25519 public key, base64.
    pub public_key: String,
    /// UDP port of the mesh.
    pub udp_port: u16,
    /// The host's own addresses, by which it may be reached.
    pub addresses: Vec<IpAddr>,
    /// Fingerprint of the key by which the node is known over TLS.
    pub fingerprint: String,
    /// Process id of the node's outer half.
    pub pid: u32,
}

/// A process to run in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRequest {
    /// Its name, unique among those that run; also names its log.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// What it may use with all that it starts.
    #[serde(default)]
    pub allowance: Option<Allowance>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Report,
    Connect(Vec<Peer>),
    Run(ProcessRequest),
    Terminate(Vec<String>),
    AwaitPort(SocketAddr),
    OpenGateway {
        folder: PathBuf,
        scheduler: SocketAddr,
        dashboard: SocketAddr,
    },
    Renew,
    Watch,
    Stop,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Done,
    Report(Report),
    Gateway(GatewayInfo),
    Failed(String),
}

/// How a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Key and port.
    pub ready: Ready,
    /// Its mesh.
    pub mesh: MeshReport,
    /// Names of the processes that run, sorted.
    pub processes: Vec<String>,
}

/// How the mesh of a node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshReport {
    /// Its peers, by ascending number.
    pub peers: Vec<PeerReport>,
    /// Packets that were dropped or lost without concerning any one peer, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// How one peer stands, as its node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Name of the member.
    pub name: String,
    /// Where it was last heard, or is first looked for; nothing while it is relayed.
    pub endpoint: Option<SocketAddr>,
    /// The member by way of which it is reached, if not straight.
    #[serde(default)]
    pub relay: Option<String>,
    /// Whether its datagrams go over TLS.
    #[serde(default)]
    pub over_tls: bool,
    /// Seconds since the last handshake; nothing before the first.
    pub handshake_seconds_ago: Option<u64>,
    /// Seconds since the last authentic datagram; nothing before the first.
    #[serde(default)]
    pub heard_seconds_ago: Option<u64>,
    /// The largest packet inside the tunnel that the path to it carries, in bytes.
    pub path_mtu: u32,
    /// Seconds since packets of the least path MTU have been found not to pass; nothing where they do.
    #[serde(default)]
    pub narrow_seconds: Option<u64>,
    /// Smoothed round-trip time in microseconds, once it has been measured.
    pub round_trip_microseconds: Option<u64>,
    /// Handshakes completed.
    pub handshakes: u64,
    /// Bytes received from it, by whatever path.
    pub received_bytes: u64,
    /// Bytes sent to it, by whatever path.
    pub sent_bytes: u64,
    /// What went by each of [`PathReport::KINDS`]. One by which nothing went is absent.
    #[serde(default)]
    pub paths: BTreeMap<String, PathReport>,
    /// Packets received from it inside the tunnel.
    pub received_packets: u64,
    /// Packets sent to it inside the tunnel.
    pub sent_packets: u64,
    /// Datagrams that this node has passed on for it, to members that it does not reach straight.
    #[serde(default)]
    pub relayed_packets: u64,
    /// Their bytes.
    #[serde(default)]
    pub relayed_bytes: u64,
    /// Packets dropped on the way to or from it, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// What went to and from a peer by one kind of path, in bytes of UDP payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Datagrams received.
    pub received_datagrams: u64,
    /// Datagrams sent.
    pub sent_datagrams: u64,
    /// Handshakes that were completed by this kind of path.
    pub handshakes: u64,
}

impl PathReport {
    /// The kinds of paths, the best first: UDP straight to the peer, TLS, and by way of a relay.
    pub const KINDS: [&str; 3] = ["direct", "tls", "relayed"];
}

impl PeerReport {
    /// How packets reach it: `direct` (over UDP), `tls`, `relayed`, or `none` as long as nothing has
    /// come from it.
    #[must_use]
    pub fn path(&self) -> &'static str {
        match (self.heard_seconds_ago, &self.relay) {
            (None, _) => "none",
            (Some(_), Some(_)) => "relayed",
            (Some(_), None) if self.over_tls => "tls",
            (Some(_), None) => "direct",
        }
    }
}

/// Where clients reach the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayInfo {
    /// TLS listener on the operator's host.
    pub scheduler: SocketAddr,
    /// Dashboard's link, with its token.
    pub dashboard: String,
}

/// Something that happened in a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeEvent {
    /// The subscription stands: what happens from here on is told.
    Watching,
    /// A process inside ended.
    Exited {
        /// Its name.
        name: String,
        /// How, e.g. `exit code 1`, or why it was ended.
        status: String,
        /// True if it exited with code 0.
        #[serde(default)]
        success: bool,
        /// True if it was told to end.
        asked: bool,
    },
}
