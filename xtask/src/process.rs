//! Runs commands into a log file, within a time limit.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::console;

/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long killed processes may take to end; one stuck in the kernel takes for ever.
const KILL: Duration = Duration::from_secs(5);
/// How often a long command is reported to be still running.
const REPORT: Duration = Duration::from_secs(60);

/// A log file, the deadline of everything that is run into it, and what was run.
///
/// The commands stay in the caller's process group, so that Ctrl-C reaches them too.
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    name: String,
    deadline: Instant,
    limit: Duration,
}

impl Log {
    /// Creates (or empties) the log at `path`; its commands have `limit` altogether.
    ///
    /// # Errors
    /// When the file or its folder cannot be created.
    pub(crate) fn create(path: &Path, limit: Duration) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        }
        File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open {} for writing", path.display()))?;
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let deadline = Instant::now() + limit;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            name,
            deadline,
            limit,
        })
    }

    /// The log file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Everything logged so far; bytes that are no UTF-8 are replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    /// The last `lines` lines of the log.
    pub(crate) fn tail(&self, lines: usize) -> Vec<String> {
        let text = self.text();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..]
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Writes a line of our own into the log.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn note(&mut self, line: &str) -> Result<()> {
        self.file.seek(std::io::SeekFrom::End(0))?;
        writeln!(self.file, "{line}")
            .with_context(|| format!("cannot write to {}", self.path.display()))
    }

    /// Runs `command` without stdin, its output in the log, and gives its exit status.
    ///
    /// # Errors
    /// When it cannot be started, or the log's time is up (it and its descendants are killed).
    pub(crate) fn status(&mut self, command: &mut Command) -> Result<ExitStatus> {
        let line = command_line(command);
        self.note(&format!("$ {line}"))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(self.file.try_clone()?)
            .stderr(self.file.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        self.wait(&mut child, &line)
    }

    /// Runs `command` as [`Log::status`] does, and fails when it fails.
    ///
    /// # Errors
    /// As [`Log::status`], and on another exit status than 0.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<()> {
        let status = self.status(command)?;
        if !status.success() {
            bail!("`{}` ended with {status}", command_line(command));
        }
        Ok(())
    }

    /// Runs every command, also after one failed, and gives the first failure.
    ///
    /// # Errors
    /// As [`Log::run`].
    pub(crate) fn run_all<const N: usize>(&mut self, commands: [Command; N]) -> Result<()> {
        let results = commands.map(|mut command| self.run(&mut command));
        results.into_iter().collect()
    }

    fn wait(&self, child: &mut Child, line: &str) -> Result<ExitStatus> {
        let mut report = Instant::now() + REPORT;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let now = Instant::now();
            if now >= self.deadline {
                kill_tree(child.id());
                child.wait()?;
                bail!(
                    "`{line}` was killed: {} has {} s",
                    self.name,
                    self.limit.as_secs()
                );
            }
            if now >= report {
                let last = self.tail(1).pop().unwrap_or_default();
                console::progress(&format!("       {}: still running: {last}", self.name));
                report = now + REPORT;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The command as a reader would type it.
fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Kills a process and all its descendants, and returns when they have ended.
fn kill_tree(root: u32) {
    let mut tree = vec![root];
    let mut next = 0;
    while next < tree.len() {
        // Stopped before its children are listed, so that it starts no others.
        signal(tree[next], Signal::SIGSTOP);
        tree.extend(children(tree[next]));
        next += 1;
    }
    for process in &tree {
        signal(*process, Signal::SIGKILL);
    }
    let give_up = Instant::now() + KILL;
    while tree.iter().any(|process| is_running(*process)) && Instant::now() < give_up {
        std::thread::sleep(POLL);
    }
}

/// Signals a process; one that has ended meanwhile is what the caller wants anyway.
fn signal(process: u32, signal: Signal) {
    if let Ok(process) = i32::try_from(process) {
        let _gone = kill(Pid::from_raw(process), signal);
    }
}

/// The processes whose parent is `parent`, from `/proc/*/stat`.
fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|process| parent_of(*process) == Some(parent))
        .collect()
}

fn parent_of(process: u32) -> Option<u32> {
    stat(process)?.1.parse().ok()
}

/// Whether a process is there and no zombie.
fn is_running(process: u32) -> bool {
    stat(process).is_some_and(|(state, _)| !matches!(state.as_str(), "Z" | "X"))
}

/// State and parent from `/proc/PID/stat`, counted after the name, which may hold anything.
fn stat(process: u32) -> Option<(String, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').map(ToOwned::to_owned);
    Some((fields.next()?, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(limit: Duration) -> (tempfile::TempDir, Log) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::create(&folder.path().join("logs/step.log"), limit).unwrap();
        (folder, log)
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_streams_land_in_the_log_in_order() {
        let (_folder, mut log) = log(Duration::from_secs(60));
        log.run(&mut shell("echo one; echo two >&2; echo three"))
            .unwrap();
        assert_eq!(log.tail(3), ["one", "two", "three"]);
    }

    #[test]
    fn a_failure_does_not_stop_the_next_command_and_is_told() {
        let (_folder, mut log) = log(Duration::from_secs(60));
        let error = log
            .run_all([shell("exit 3"), shell("echo after")])
            .unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert_eq!(log.tail(1), ["after"]);
    }

    #[test]
    fn a_command_past_its_limit_is_killed_with_its_children() {
        let (_folder, mut log) = log(Duration::from_millis(300));
        let error = log
            .run(&mut shell("sleep 1000 & echo $!; wait"))
            .unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
        let child: u32 = log.tail(1)[0].parse().unwrap();
        assert!(!is_running(child));
    }

    #[test]
    fn a_missing_program_is_named() {
        let (_folder, mut log) = log(Duration::from_secs(60));
        let error = log.run(&mut Command::new("/no/such/program")).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
