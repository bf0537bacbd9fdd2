//! The processes of a node as its host sees them. Both halves bear the node's folder in their command
//! line, so that they are found whoever has started them, and whatever was noted of them.

use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::time::Duration;

use fed_core::Leases;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::spec::NodeFolder;

/// How often processes that end are looked at.
const POLL: Duration = Duration::from_millis(20);

/// How long it may take to look at all processes of the host.
const LOOK: Duration = Duration::from_secs(5);

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
    for process in all(folder).await {
        // It may have ended this moment.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    gone(folder, Leases::GRACE).await
}

/// Waits until a node has no processes; returns their numbers if it has after `patience`.
async fn gone(folder: &NodeFolder, patience: Duration) -> Result<(), Vec<i32>> {
    let begun = Instant::now();
    loop {
        let mut found = all(folder).await;
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

/// The processes of a node that can be seen.
async fn all(folder: &NodeFolder) -> Vec<Process> {
    let own = folder.path().to_owned();
    let looking = tokio::task::spawn_blocking(move || look(&own));
    match timeout(LOOK, looking).await {
        Ok(found) => found.unwrap_or_default(),
        Err(_) => {
            warn!(
                folder = %folder.path().display(),
                "the processes of this host could not be looked at in {} s, as where one hangs on a \
                 dead file system; see whether one is left with this folder in its command line",
                LOOK.as_secs()
            );
            Vec::new()
        }
    }
}

fn look(folder: &Path) -> Vec<Process> {
    let Some(own) = Place::of("self") else {
        return Vec::new();
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // Who it is comes first: to read a command line may take as long as that process hangs.
    let near = pids.filter(|pid| Place::of(pid).is_some_and(|place| place.is_near(own)));
    near.filter(|pid| is_node(*pid, folder))
        .filter_map(Process::of)
        .collect()
}

fn is_node(pid: i32, folder: &Path) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = command.split(|byte| *byte == 0).skip(1);
    let folder = folder.as_os_str().as_encoded_bytes();
    arguments.next() == Some(b"node") && arguments.next() == Some(folder)
}

/// Whose a process is, and where: others, and those of containers, may have any command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Effective user.
    uid: u32,
    /// In how many PID namespaces it is, as far as they can be seen, and its number in the innermost.
    depth: usize,
    innermost: i32,
}

impl Place {
    fn of(pid: impl Display) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let words = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().split_whitespace()
        };
        Some(Self {
            // Real, effective, saved, of the file system; see proc(5).
            uid: words("Uid:").nth(1)?.parse().ok()?,
            depth: words("NSpid:").count(),
            innermost: words("NSpid:").last()?.parse().ok()?,
        })
    }

    /// Whether it is this user's, and in this process's PID namespace or the first of a sandbox there.
    fn is_near(self, own: Self) -> bool {
        let here = self.depth == own.depth;
        let first_below = self.depth == own.depth + 1 && self.innermost == 1;
        self.uid == own.uid && (here || first_below)
    }
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
    fn a_process_of_another_user_or_a_container_is_none_of_ours() {
        let own = Place::of("self").unwrap();
        assert!(own.is_near(own));
        assert_eq!(Place::of(i32::MAX), None, "there is none");
        let other = Place {
            uid: own.uid + 1,
            ..own
        };
        assert!(!other.is_near(own));
        let below = |innermost| Place {
            depth: own.depth + 1,
            innermost,
            ..own
        };
        assert!(below(1).is_near(own), "the first of a sandbox");
        assert!(!below(7).is_near(own));
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
