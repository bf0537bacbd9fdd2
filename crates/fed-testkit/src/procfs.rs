//! What `/proc` says of processes and namespaces.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Kinds of namespaces that fed makes, as `/proc/PID/ns` names them.
pub(crate) const NAMESPACE_KINDS: [&str; 5] = ["net", "mnt", "pid", "user", "uts"];

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its id, as seen by the caller.
    pub pid: u32,
    /// Its arguments, separated by spaces; its short name in brackets where it has none.
    pub cmdline: String,
    /// When it started, in clock ticks since boot: with `pid`, what tells it from all others.
    pub started: u64,
}

/// All processes in the PID namespace of `init` and in those nested in it, except `init`.
pub(crate) fn processes_of_host(init: u32) -> io::Result<Vec<Process>> {
    let namespace = namespace(init, "pid")?;
    let mut found = processes()?;
    found.retain(|process| process.pid != init && is_within(process.pid, namespace));
    Ok(found)
}

/// All processes that the caller can see. Those that end meanwhile are left out; zombies too:
/// they hold nothing but their number.
pub(crate) fn processes() -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            found.extend(process(pid));
        }
    }
    found.sort();
    Ok(found)
}

/// The number of the namespace of a kind that a process lives in.
pub(crate) fn namespace(pid: u32, kind: &str) -> io::Result<u64> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/{kind}"))?.ino())
}

/// Names of the network devices that a process sees.
pub(crate) fn devices(pid: u32) -> io::Result<Vec<String>> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let names = table
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
}

/// Namespaces that a process holds by an open descriptor, such as `net:[4026531840]`.
pub(crate) fn held_namespaces(pid: u32) -> Vec<String> {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let targets = descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    let names = targets.filter_map(|target| target.to_str().map(str::to_owned));
    names
        .filter(|name| NAMESPACE_KINDS.iter().any(|kind| is_namespace(name, kind)))
        .collect()
}

fn is_namespace(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind)
        .is_some_and(|rest| rest.starts_with(":["))
}

fn process(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, brackets too: the fields begin after the last one.
    let (start, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    let started = fields.get(19)?.parse().ok()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&arguments).replace('\0', " ");
    let name = start.split_once('(').map_or("", |(_, name)| name);
    let line = line.trim_end();
    let cmdline = if line.is_empty() {
        format!("[{name}]")
    } else {
        line.to_owned()
    };
    Some(Process {
        pid,
        cmdline,
        started,
    })
}

/// Whether a process lives in the PID namespace `target` or in one nested in it.
fn is_within(pid: u32, target: u64) -> bool {
    let Ok(mut namespace) = fs::File::open(Path::new(&format!("/proc/{pid}/ns/pid"))) else {
        return false;
    };
    loop {
        match namespace.metadata() {
            Ok(metadata) if metadata.ino() == target => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
        match parent_namespace(&namespace) {
            Ok(parent) => namespace = parent.into(),
            Err(_) => return false,
        }
    }
}

nix::ioctl_none_bad!(
    /// Opens the parent of a namespace.
    ns_get_parent,
    NS_GET_PARENT
);

/// `_IO(0xb7, 2)` of linux/nsfs.h.
const NS_GET_PARENT: libc::c_ulong = 0xb702;

#[expect(unsafe_code, reason = "an ioctl that returns a new descriptor")]
fn parent_namespace(namespace: &fs::File) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes no argument and returns a new descriptor, which nobody else owns.
    unsafe { ns_get_parent(namespace.as_raw_fd()).map(|fd| OwnedFd::from_raw_fd(fd)) }
}
