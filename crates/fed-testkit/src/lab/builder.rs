//! The description of a lab, and its start.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::Lab;
use super::device::{self, DeviceError};
use super::host::Host;
use super::init::{Init, InitError};
use super::step::Step;
use super::tree::{Tree, TreeError};
use crate::privilege::{self, Missing};
use crate::wan::{LinkSpec, Wan, WanError};

const FIRST_ADDRESS: u8 = 10;
const MOST_HOSTS: usize = 200;
const LONGEST_NAME: usize = 31;

/// Why a lab could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// This process may not make hosts.
    #[error("cannot make hosts on this machine")]
    Missing(#[from] Missing),
    /// A host's name is not `[a-z][a-z0-9-]{0,30}`.
    #[error(
        "{0:?} is no host name: give up to 31 lower-case letters, digits and dashes, a letter first"
    )]
    Name(String),
    /// Two hosts have one name.
    #[error("two hosts are named {0:?}; give each a name of its own")]
    Twice(String),
    /// A bind or link names a host that was not added before.
    #[error("there is no host {0:?}; add it with `host` before what concerns it")]
    UnknownHost(String),
    /// The number of hosts is out of range.
    #[error("a lab has 1 to {MOST_HOSTS} hosts, not {0}")]
    Count(usize),
    /// The link between all hosts is out of range.
    #[error("the WAN: {0}")]
    Wan(String),
    /// A host's file tree cannot be made.
    #[error("cannot lay out the files of host {host}")]
    Tree {
        /// The host.
        host: String,
        /// Why not.
        #[source]
        source: TreeError,
    },
    /// A host's first process could not be made.
    #[error("cannot start host {host}")]
    Init {
        /// The host.
        host: String,
        /// Why not.
        #[source]
        source: InitError,
    },
    /// A host's process could not be held on to.
    #[error("cannot keep hold of host {host}")]
    Handle {
        /// The host.
        host: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A host's network devices could not be made.
    #[error("cannot make the network devices of host {host}")]
    Device {
        /// The host.
        host: String,
        /// Why not.
        #[source]
        source: DeviceError,
    },
    /// The WAN emulator could not be started or set up.
    #[error("cannot start the WAN")]
    Emulator(#[from] WanError),
}

#[derive(Debug)]
enum Place {
    Private(PathBuf),
    Bind {
        source: PathBuf,
        target: PathBuf,
        read_only: bool,
    },
}

#[derive(Debug)]
struct HostSpec {
    name: String,
    places: Vec<Place>,
}

/// Describes a lab: hosts, what each sees, and the links between them.
///
/// Each host sees the machine's files, with a `/proc`, `/run`, `/dev/shm`, `/etc/hosts` and host
/// name of its own. Host number n, from 0, has the addresses `192.0.2.(10+n)` and `2001:db8::(10+n)`,
/// the latter with the decimal digits of 10+n.
#[derive(Debug, Default)]
pub struct LabBuilder {
    hosts: Vec<HostSpec>,
    wan: LinkSpec,
    links: Vec<(String, String, LinkSpec)>,
    seed: u64,
    unknown: Option<String>,
}

impl LabBuilder {
    /// Adds a host; `name` is `[a-z][a-z0-9-]{0,30}`.
    #[must_use]
    pub fn host(mut self, name: &str) -> Self {
        self.hosts.push(HostSpec {
            name: name.to_owned(),
            places: Vec::new(),
        });
        self
    }

    /// Shows `source`, a file or directory of the machine, at `target` in one host alone. Missing
    /// directories on the way are made inside the host, and leave the machine as it is.
    #[must_use]
    pub fn bind(self, host: &str, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        let (source, target) = (source.as_ref().to_owned(), target.as_ref().to_owned());
        self.place(
            host,
            Place::Bind {
                source,
                target,
                read_only: false,
            },
        )
    }

    /// As [`Self::bind`], read-only.
    #[must_use]
    pub fn bind_read_only(
        self,
        host: &str,
        source: impl AsRef<Path>,
        target: impl AsRef<Path>,
    ) -> Self {
        let (source, target) = (source.as_ref().to_owned(), target.as_ref().to_owned());
        self.place(
            host,
            Place::Bind {
                source,
                target,
                read_only: true,
            },
        )
    }

    /// Puts an empty directory of the host's own, in memory, at `path`. What is there on the
    /// machine is hidden in this host.
    #[must_use]
    pub fn private(self, host: &str, path: impl AsRef<Path>) -> Self {
        self.place(host, Place::Private(path.as_ref().to_owned()))
    }

    /// Sets the link between all hosts, in each direction.
    #[must_use]
    pub fn wan(mut self, spec: LinkSpec) -> Self {
        self.wan = spec;
        self
    }

    /// Sets the link between two hosts, in both directions.
    #[must_use]
    pub fn link(mut self, a: &str, b: &str, spec: LinkSpec) -> Self {
        self.links.push((a.to_owned(), b.to_owned(), spec));
        self
    }

    /// Sets the seed of losses and jitter (default 0).
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Makes the hosts and starts the WAN.
    ///
    /// # Errors
    /// [`LabError`]; whatever had been made is gone again.
    pub fn start(self) -> Result<Lab, LabError> {
        self.validate()?;
        privilege::check_entered()?;
        let table = self.hosts_table();
        let mut hosts = Vec::new();
        let mut ports = Vec::new();
        for (number, spec) in (0_u8..).zip(&self.hosts) {
            let (host, tap) = start_host(number, spec, &table)?;
            ports.push((spec.name.clone(), tap));
            hosts.push(host);
        }
        let wan = Wan::start(ports, &self.wan, self.seed)?;
        for (a, b, spec) in self.links {
            wan.set_link(&a, &b, spec.clone())?;
            wan.set_link(&b, &a, spec)?;
        }
        Ok(Lab { wan, hosts })
    }

    fn place(mut self, host: &str, place: Place) -> Self {
        match self.hosts.iter_mut().find(|spec| spec.name == host) {
            Some(spec) => spec.places.push(place),
            None => self.unknown = Some(host.to_owned()),
        }
        self
    }

    fn validate(&self) -> Result<(), LabError> {
        if let Some(name) = &self.unknown {
            return Err(LabError::UnknownHost(name.clone()));
        }
        if !(1..=MOST_HOSTS).contains(&self.hosts.len()) {
            return Err(LabError::Count(self.hosts.len()));
        }
        let mut names = BTreeSet::new();
        for HostSpec { name, .. } in &self.hosts {
            if !is_host_name(name) {
                return Err(LabError::Name(name.clone()));
            }
            if !names.insert(name) {
                return Err(LabError::Twice(name.clone()));
            }
        }
        self.wan.validate().map_err(LabError::Wan)
    }

    /// The `/etc/hosts` of every host.
    fn hosts_table(&self) -> String {
        let mut table = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n".to_owned();
        for (number, HostSpec { name, .. }) in (0_u8..).zip(&self.hosts) {
            let (v4, v6) = addresses(number);
            writeln!(table, "{v4} {name}\n{v6} {name}").expect("a String takes all text");
        }
        table
    }
}

fn start_host(number: u8, spec: &HostSpec, table: &str) -> Result<(Host, OwnedFd), LabError> {
    let host = || spec.name.clone();
    let mut steps = plan(spec, table).map_err(|source| LabError::Tree {
        host: host(),
        source,
    })?;
    let name = CString::new(spec.name.as_str()).expect("a valid host name holds no zero byte");
    steps.push(Step::Hostname(name));
    let init = Init::start(&steps).map_err(|source| LabError::Init {
        host: host(),
        source,
    })?;
    let (v4, v6) = addresses(number);
    let mac = [0x02, 0xfe, 0xd0, 0, 0, number];
    let tap = device::create(init.pidfd(), mac, v4, v6).map_err(|source| LabError::Device {
        host: host(),
        source,
    })?;
    let handle = Host::new(host(), v4, v6, init).map_err(|source| LabError::Handle {
        host: host(),
        source,
    })?;
    Ok((handle, tap))
}

fn plan(spec: &HostSpec, table: &str) -> Result<Vec<Step>, TreeError> {
    let mut tree = Tree::new()?;
    tree.file(Path::new("/etc/hosts"), table)?;
    for place in &spec.places {
        match place {
            Place::Private(path) => tree.private(path)?,
            Place::Bind {
                source,
                target,
                read_only,
            } => tree.bind(source, target, *read_only)?,
        }
    }
    Ok(tree.into_steps())
}

fn addresses(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    let last = FIRST_ADDRESS + number;
    let v6 = format!("2001:db8::{last}").parse();
    (
        Ipv4Addr::new(192, 0, 2, last),
        v6.expect("three decimal digits are a group of an address"),
    )
}

fn is_host_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= LONGEST_NAME
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
