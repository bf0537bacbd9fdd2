//! The processes of a node as its host sees them. Both halves bear the node's folder in their command
//! line, so that they are found whoever has started them, and whatever was noted of them.

use std::fs;
use std::time::Duration;

use fed_core::Leases;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tokio::time::Instant;

use super::spec::NodeFolder;

/// How often processes that end are looked at.
const POLL: Duration = Duration::from_millis(20);

/// A process: a number that is used again has another start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    /// In clock ticks since the host was booted.
    started: u64,
}

impl Process {
    /// The process of this number; nothing if it has ended, reaped or not.
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, which may hold anything, stands in brackets before the state; see proc(5).
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let started = fields.nth(18)?.parse().ok()?;
        (!has_ended).then_some(Self { pid, started })
    }

    fn lives(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

/// Ends the node in `folder`, if there is one, which is no child of this process: waits as long as
/// `patience` for it to end by itself, and kills it then. Its sandbox ends with it.
///
/// # Errors
/// The numbers of processes that were there still after [`Leases::GRACE`] more.
pub(crate) async fn end(folder: &NodeFolder, patience: Duration) -> Result<(), Vec<i32>> {
    if gone(folder, patience).await.is_ok() {
        return Ok(());
    }
    for process in all(folder) {
        // It may have ended this moment.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    gone(folder, Leases::GRACE).await
}

/// Waits until a node has no processes; returns their numbers if it has after `patience`.
async fn gone(folder: &NodeFolder, patience: Duration) -> Result<(), Vec<i32>> {
    let begun = Instant::now();
    loop {
        let mut found = all(folder);
        if found.is_empty() {
            return Ok(());
        }
        // One that dies has no command line any more.
        while !found.is_empty() {
            if begun.elapsed() >= patience {
                return Err(found.iter().map(|process| process.pid).collect());
            }
            tokio::time::sleep(POLL).await;
            found.retain(Process::lives);
        }
    }
}

/// Whether a process is one of this user: others may give theirs any command line.
fn is_of_this_user(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    // Real, effective, saved, of the file system; see proc(5).
    let effective = uids.and_then(|uids| uids.split_whitespace().nth(1)?.parse().ok());
    effective == Some(geteuid().as_raw())
}

/// The processes of a node that can be seen.
fn all(folder: &NodeFolder) -> Vec<Process> {
    let own = folder.path().as_os_str().as_encoded_bytes();
    let is_own = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = command.split(|byte| *byte == 0).skip(1);
        arguments.next() == Some(b"node") && arguments.next() == Some(own)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let own = pids.filter(|pid| is_own(pid) && is_of_this_user(*pid));
    own.filter_map(Process::of).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// Runs a script with the arguments of a node in this folder, until it has said something.
    fn run(folder: &NodeFolder, script: &str) -> Child {
        fs::write(folder.path().join("node"), script).unwrap();
        let mut child = Command::new("sh")
            .arg("node")
            .arg(folder.path())
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines().next();
        assert!(said.is_some());
        child
    }

    #[tokio::test]
    async fn a_node_that_does_not_end_is_killed_and_no_other() {
        let place = tempfile::tempdir().unwrap();
        let folders = ["one", "other"].map(|name| place.path().join(name));
        let [one, other] = folders.map(|path| {
            fs::create_dir(&path).unwrap();
            NodeFolder::new(path)
        });
        assert_eq!(end(&one, Duration::from_secs(60)).await, Ok(()));
        let mut another = run(&other, "echo up; read -r nothing");
        let mut stopped = run(&one, "echo up; kill -STOP $$");
        let pid = stopped.id().cast_signed();
        assert_eq!(gone(&one, Duration::ZERO).await, Err(vec![pid]));
        assert_eq!(end(&one, Duration::ZERO).await, Ok(()));
        assert!(!stopped.wait().unwrap().success());
        assert_eq!(another.try_wait().unwrap(), None);
        assert_eq!(end(&other, Duration::ZERO).await, Ok(()));
        another.wait().unwrap();
    }

    #[test]
    fn a_process_of_another_user_is_none_of_ours() {
        let own = std::process::id().cast_signed();
        assert!(is_of_this_user(own));
        assert!(!is_of_this_user(i32::MAX), "there is none");
        // Only root may become somebody else; to all others the first process is.
        if geteuid().is_root() {
            use std::os::unix::process::CommandExt as _;
            let mut sleep = Command::new("sleep");
            let mut other = sleep.arg("60").uid(65_534).spawn().unwrap();
            assert!(!is_of_this_user(other.id().cast_signed()));
            other.kill().unwrap();
            other.wait().unwrap();
        } else {
            assert!(!is_of_this_user(1));
        }
    }

    #[tokio::test]
    async fn a_node_that_ends_by_itself_is_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let folder = NodeFolder::new(place.path());
        let mut node = run(&folder, "echo up; sleep 0.2; exit 7");
        assert_eq!(end(&folder, Duration::from_secs(60)).await, Ok(()));
        assert_eq!(node.wait().unwrap().code(), Some(7));
    }
}
