use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Step};
use crate::limits::{Allowance, Quotas};

/// What a sandbox looks like from inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The host name inside, at most 64 bytes; the sandbox's hosts file maps it to the TUN's
    /// address.
    pub hostname: String,
    /// The only network device besides the loopback.
    pub tun: TunSpec,
    /// Files and folders visible inside at the same path, read-only with all that is mounted
    /// below them. Absolute. Symbolic links on the way are made again inside.
    pub read_only: Vec<PathBuf>,
    /// The folder visible inside at the same path, writable; it is `TMPDIR` unless a process says
    /// otherwise, and its subfolder `tmp`, made where missing, is `/tmp`. Absolute.
    pub scratch: PathBuf,
    /// Further addresses of the sandbox itself, on its loopback device: where connections to hosts
    /// outside arrive that the outer half carries on.
    pub own_addresses: Vec<IpAddr>,
    /// What all processes may use together; without, the system's own limits.
    pub quotas: Option<Quotas>,
    /// Lines of the sandbox's `/etc/hosts` besides those of localhost and of the host name.
    pub hosts: Vec<(IpAddr, String)>,
}

impl SandboxSpec {
    /// Checks what the kernel would refuse late or not at all.
    pub(crate) fn validate(&self) -> Result<(), Failure> {
        let refuse = |what: String| Err(Failure::new(Step::Spec, what, Errno::EINVAL));
        if !is_host_name(&self.hostname) {
            return refuse(format!("host name {:?}", self.hostname));
        }
        if let Some((_, name)) = self.hosts.iter().find(|(_, name)| !is_host_name(name)) {
            return refuse(format!("hosts entry {name:?}"));
        }
        if self.tun.prefix_len > 128 {
            return refuse(format!("prefix length {} (0 to 128)", self.tun.prefix_len));
        }
        if !(1280..=65_535).contains(&self.tun.mtu) {
            return refuse(format!("MTU {} (1280 to 65535)", self.tun.mtu));
        }
        Ok(())
    }
}

/// Whether it can stand in a hosts file and be a host's name.
fn is_host_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=253).contains(&name.len()) && name.bytes().all(allowed)
}

/// The TUN device of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunSpec {
    /// The device's name, 1 to 15 bytes, such as `fed0`.
    pub name: String,
    /// The sandbox's own address.
    pub address: Ipv6Addr,
    /// How many leading bits of `address` all reachable hosts share, 0 to 128: this prefix is
    /// routed into the device, 48 for a federation.
    pub prefix_len: u8,
    /// The largest packet, in bytes, 1280 to 65535.
    pub mtu: u32,
}

/// A process to run in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// What to call it in events and errors.
    pub name: String,
    /// The program and its arguments. A program without a slash is looked for in the `PATH` of
    /// `env`.
    pub argv: Vec<String>,
    /// The whole environment; `TMPDIR` is added where it is missing.
    pub env: BTreeMap<String, String>,
    /// The working folder, as seen inside.
    pub cwd: PathBuf,
    /// Where standard output and standard error are appended, as seen inside; made with mode 0600
    /// where missing.
    pub log: PathBuf,
    /// What it may use with all that it starts; without, whatever it can get.
    pub allowance: Option<Allowance>,
}

/// Names a process of one sandbox; never used twice in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(pub(crate) u64);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this code, 0 to 255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Which kind of address a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4: in a sandbox, the loopback only.
    V4,
    /// IPv6: the loopback and the mesh.
    V6,
}

impl From<IpAddr> for IpFamily {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The step at which a process could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessStep {
    /// The specification holds a NUL byte or names no program.
    Arguments,
    /// Making the process.
    Fork,
    /// Giving it its own session, signals and limits.
    Isolate,
    /// Opening its log.
    Log,
    /// Entering its working folder.
    Folder,
    /// Executing its program.
    Exec,
}

impl fmt::Display for ProcessStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arguments => "read the arguments of",
            Self::Fork => "fork for",
            Self::Isolate => "set up the session of",
            Self::Log => "open the log",
            Self::Folder => "enter the folder",
            Self::Exec => "execute",
        })
    }
}
