//! What a test has left behind: processes, namespaces, network devices and files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::lab::Lab;
use crate::procfs::{self, Process};

/// Why nothing can be said of leftovers.
#[derive(Debug, thiserror::Error)]
pub enum LeftoversError {
    /// `/proc` cannot be read.
    #[error("cannot look for processes in /proc")]
    Processes(#[source] io::Error),
    /// A host cannot be looked into.
    #[error("cannot look into host {host}; is its lab running?")]
    Host {
        /// The host.
        host: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A folder cannot be listed.
    #[error("cannot list {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What there was at one time, to compare with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    processes: BTreeMap<(u32, u64), Process>,
    /// Names such as `net:[4026531840]`, with a process that lives in it or holds it.
    namespaces: BTreeMap<String, Process>,
    /// Where (a host or a namespace), and the device's name.
    devices: BTreeSet<(String, String)>,
    files: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone)]
struct HostScope {
    name: String,
    init: u32,
}

/// Looks for leftovers: take a [`Self::snapshot`] before, ask [`Self::since`] after.
///
/// In the hosts of a lab, every new process is a leftover. On the whole machine, where others work
/// too, only a process that runs a program named `fed`, or that lives in a namespace which the
/// snapshot had not seen.
#[derive(Debug, Clone)]
pub struct Leftovers {
    hosts: Option<Vec<HostScope>>,
    folders: Vec<PathBuf>,
}

impl Leftovers {
    /// Looks at the whole machine, as far as the caller may see it.
    #[must_use]
    pub fn of_machine() -> Self {
        Self {
            hosts: None,
            folders: Vec::new(),
        }
    }

    /// Looks into the hosts of a lab.
    #[must_use]
    pub fn of_lab(lab: &Lab) -> Self {
        let hosts = lab.hosts().iter();
        let hosts = hosts.map(|host| HostScope {
            name: host.name().to_owned(),
            init: host.pid(),
        });
        Self {
            hosts: Some(hosts.collect()),
            folders: Vec::new(),
        }
    }

    /// Looks for files below this path too. A path in a host: [`Host::path`](crate::Host::path).
    /// A folder that does not exist holds no files.
    #[must_use]
    pub fn folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.folders.push(path.into());
        self
    }

    /// What there is now.
    ///
    /// # Errors
    /// [`LeftoversError`], if something cannot be looked at.
    pub fn snapshot(&self) -> Result<Snapshot, LeftoversError> {
        let mut now = Snapshot::default();
        match &self.hosts {
            None => {
                let processes = procfs::processes().map_err(LeftoversError::Processes)?;
                now.add_processes(processes);
            }
            Some(hosts) => hosts.iter().try_for_each(|host| now.add_host(host))?,
        }
        for folder in &self.folders {
            list(folder, &mut now.files)?;
        }
        Ok(now)
    }

    /// What there is now and was not `before`: a line each, for people. Empty means clean.
    ///
    /// # Errors
    /// [`LeftoversError`], if something cannot be looked at.
    pub fn since(&self, before: &Snapshot) -> Result<Vec<String>, LeftoversError> {
        let now = self.snapshot()?;
        let fresh: BTreeMap<_, _> = now
            .namespaces
            .iter()
            .filter(|(name, _)| !before.namespaces.contains_key(*name))
            .collect();
        let mut lines = Vec::new();
        for (key, process) in &now.processes {
            let suspect = self.hosts.is_some() || is_fed(process) || lives_in(process, &fresh);
            if suspect && !before.processes.contains_key(key) {
                lines.push(format!("process {}", describe(process)));
            }
        }
        for (name, process) in &fresh {
            lines.push(format!(
                "namespace {name}, of process {}",
                describe(process)
            ));
        }
        for (place, device) in now.devices.difference(&before.devices) {
            lines.push(format!("network device {device} in {place}"));
        }
        lines.extend(
            now.files
                .difference(&before.files)
                .map(|file| self.describe_file(file)),
        );
        Ok(lines)
    }

    fn describe_file(&self, file: &Path) -> String {
        let in_host = self.hosts.iter().flatten().find_map(|host| {
            let inside = file
                .strip_prefix(format!("/proc/{}/root", host.init))
                .ok()?;
            Some(format!("file /{} in {}", inside.display(), host.name))
        });
        in_host.unwrap_or_else(|| format!("file {}", file.display()))
    }
}

impl Snapshot {
    fn add_host(&mut self, host: &HostScope) -> Result<(), LeftoversError> {
        let HostScope { name, init } = host;
        let failed = |source| LeftoversError::Host {
            host: name.clone(),
            source,
        };
        let processes = procfs::processes_of_host(*init).map_err(failed)?;
        let first = Process {
            pid: *init,
            cmdline: format!("[init of {name}]"),
            started: 0,
        };
        self.add_namespaces(&first, Some(name));
        self.add_processes(processes);
        Ok(())
    }

    fn add_processes(&mut self, processes: Vec<Process>) {
        for process in processes {
            self.add_namespaces(&process, None);
            self.processes
                .insert((process.pid, process.started), process);
        }
    }

    /// The namespaces of a process, and the devices of its network where it is the first seen there.
    fn add_namespaces(&mut self, process: &Process, host: Option<&str>) {
        for name in own_namespaces(process.pid) {
            if self.namespaces.contains_key(&name) {
                continue;
            }
            if name.starts_with("net:") {
                // A process that has ended meanwhile has no devices.
                let devices = procfs::devices(process.pid).unwrap_or_default();
                let place = host.unwrap_or(&name);
                self.devices
                    .extend(devices.into_iter().map(|device| (place.to_owned(), device)));
            }
            self.namespaces.insert(name, process.clone());
        }
        for name in procfs::held_namespaces(process.pid) {
            self.namespaces
                .entry(name)
                .or_insert_with(|| process.clone());
        }
    }
}

fn own_namespaces(pid: u32) -> impl Iterator<Item = String> {
    let links = procfs::NAMESPACE_KINDS.iter();
    let links = links.filter_map(move |kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok());
    links.filter_map(|link| link.to_str().map(str::to_owned))
}

fn lives_in(process: &Process, namespaces: &BTreeMap<&String, &Process>) -> bool {
    own_namespaces(process.pid).any(|name| namespaces.contains_key(&name))
}

fn is_fed(process: &Process) -> bool {
    let program = process.cmdline.split(' ').next().unwrap_or_default();
    Path::new(program)
        .file_name()
        .is_some_and(|name| name == "fed")
}

fn describe(process: &Process) -> String {
    format!("{} ({})", process.pid, process.cmdline)
}

fn list(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<(), LeftoversError> {
    let failed = |source| LeftoversError::Folder {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // A link to a folder is a file here: what it leads to belongs to others.
        if entry.file_type().map_err(failed)?.is_dir() {
            list(&entry.path(), files)?;
        }
        files.insert(entry.path());
    }
    Ok(())
}
