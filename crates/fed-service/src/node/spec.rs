//! What a node is told when it starts, and the folder it lives in.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fed_core::{Destination, FederationId, FederationName, Member, MemberId};
use fed_mesh::MTU_MAX;
use fed_sandbox::{Quotas, SandboxSpec, TunSpec};
use serde::{Deserialize, Serialize};

use super::reach;

/// What a node needs to know to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeSpec {
    /// The federation.
    pub federation: FederationId,
    /// What its operator calls it.
    pub name: FederationName,
    /// Which member this node is of.
    pub member: MemberId,
    /// All members, for the hosts file inside.
    pub members: Vec<Member>,
    /// How long the node outlives its last renewal. Without one it ends with its supervisor:
    /// when the pipe on its standard input closes.
    pub lease: Option<Duration>,
    /// What the processes inside may read.
    pub read_only: Vec<PathBuf>,
    /// Hosts outside that the processes inside may connect to.
    #[serde(default)]
    pub reach: Vec<Destination>,
    /// What the processes inside may use together.
    #[serde(default)]
    pub quotas: Option<Quotas>,
}

impl NodeSpec {
    /// Describes the sandbox of this node.
    pub(super) fn sandbox(&self, folder: &NodeFolder) -> SandboxSpec {
        let name = |member: &Member| format!("{}.fed", member.name);
        let address = |member: MemberId| IpAddr::V6(self.federation.router(member));
        let own = self.members.iter().find(|member| member.id == self.member);
        let others = self
            .members
            .iter()
            .filter(|member| member.id != self.member);
        let others = others.map(|member| (address(member.id), name(member)));
        let doors = reach::doors(&self.reach);
        SandboxSpec {
            hostname: own.map_or_else(|| "fed".to_owned(), name),
            tun: TunSpec {
                name: "fed0".to_owned(),
                address: self.federation.router(self.member),
                prefix_len: 48,
                mtu: u32::try_from(MTU_MAX).expect("the mesh MTU is small"),
            },
            read_only: self.read_only.clone(),
            scratch: folder.scratch(),
            quotas: self.quotas,
            own_addresses: reach::own_addresses(&doors),
            hosts: others.chain(reach::hosts(&doors)).collect(),
        }
    }
}

/// The folder of one node: control socket, log and scratch space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFolder(PathBuf);

impl NodeFolder {
    /// Names the folder; nothing is made yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the node is told at its start.
    pub fn spec(&self) -> PathBuf {
        self.0.join("node.json")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("node.sock")
    }

    /// The node's own log.
    pub fn log(&self) -> PathBuf {
        self.0.join("node.log")
    }

    /// The only place where the processes inside may write.
    pub fn scratch(&self) -> PathBuf {
        self.0.join("scratch")
    }

    /// The log of a process inside.
    pub fn process_log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// The folder of the logs of the processes inside.
    pub fn logs(&self) -> PathBuf {
        self.scratch().join("logs")
    }

    /// Where the package `fed` stands for the processes inside.
    pub fn package(&self) -> PathBuf {
        self.scratch().join("package")
    }
}
