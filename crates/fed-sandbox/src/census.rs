//! Looks at the processes of a sandbox from outside, through the sandbox's own `/proc`.
//!
//! The outer half has its own rights here: as the parent of the sandbox's user namespace it may
//! look at processes that hide from their own kind.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::unistd::{SysconfVar, sysconf};

use crate::clone;
use crate::group::Sample;
use crate::kin;

/// The sandbox's `/proc`.
#[derive(Debug)]
pub(crate) struct Census {
    proc: OwnedFd,
    /// The sandbox's PID 1, as the outer half sees it.
    first: u32,
    page_bytes: u64,
}

impl Census {
    pub(crate) fn new(proc: OwnedFd, first: u32) -> Self {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        let page_bytes = page.and_then(|page| u64::try_from(page).ok());
        Self {
            proc,
            first,
            page_bytes: page_bytes.unwrap_or(4096),
        }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.proc.as_raw_fd()))
    }

    /// How many processes there are; none where the sandbox has ended.
    pub(crate) fn count(&self) -> usize {
        let is_number = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            name.to_str()
                .is_some_and(|name| name.parse::<i32>().is_ok())
        };
        let entries = fs::read_dir(self.path()).into_iter().flatten().flatten();
        entries.filter(is_number).count()
    }

    /// All processes, by number. Those that end meanwhile may be left out.
    ///
    /// # Errors
    /// When the sandbox has ended.
    pub(crate) fn take(&self) -> io::Result<Vec<Sample>> {
        let folder = self.path();
        let mut samples = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let text = fs::read_to_string(folder.join(format!("{pid}/stat")));
            samples.extend(text.ok().and_then(|text| self.sample(pid, &text)));
        }
        Ok(samples)
    }

    /// Reads `stat`, as proc_pid_stat(5) describes it. The name, in parentheses, may hold anything.
    fn sample(&self, pid: i32, text: &str) -> Option<Sample> {
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The first of these is field 3 of the manual.
        let field = |number: usize| fields.get(number - 3).copied();
        let threads = field(20)?.parse().ok()?;
        let has_ended = matches!(field(3)?, "Z" | "X");
        // Where the first thread has ended and others run, the process has not, whatever its own
        // lines say: they hold its memory.
        let is_dead = has_ended && threads <= 1;
        let resident_bytes = match has_ended && !is_dead {
            true => self.resident_of_a_thread(pid),
            false => field(24)?.parse::<u64>().ok()? * self.page_bytes,
        };
        Some(Sample {
            pid,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            threads,
            is_dead,
            started: field(22)?.parse().ok()?,
            resident_bytes,
        })
    }

    /// The folders of a process's threads, the first one's excepted.
    fn threads(&self, pid: i32) -> impl Iterator<Item = PathBuf> {
        let folder = self.path().join(format!("{pid}/task"));
        let first = pid.to_string();
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter(move |entry| entry.file_name() != *first)
            .map(|entry| entry.path())
    }

    /// Bytes that a process is resident with, as a thread that lives tells them.
    fn resident_of_a_thread(&self, pid: i32) -> u64 {
        let pages = self.threads(pid).filter_map(|thread| {
            let text = fs::read_to_string(thread.join("statm")).ok()?;
            text.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        pages.max().unwrap_or_default() * self.page_bytes
    }

    /// Bytes of memory that processes have together: what they share counts once.
    pub(crate) fn memory_of(&self, members: &[Sample]) -> u64 {
        let guests = kin::in_parents_memory(self.first, members);
        let hosts = members
            .iter()
            .filter(|member| !guests.contains(&member.pid));
        hosts.map(|member| self.share_of_memory(member)).sum()
    }

    /// Bytes of memory of a process, in which what several share counts in parts; what it is
    /// resident with, where it cannot be told.
    fn share_of_memory(&self, sample: &Sample) -> u64 {
        let own = self.path().join(sample.pid.to_string());
        let threads = std::iter::once(own).chain(self.threads(sample.pid));
        threads
            .filter_map(|folder| proportional(&folder))
            .next()
            .unwrap_or(sample.resident_bytes)
    }

    /// Kills a process, unless its number is another's by now.
    pub(crate) fn kill(&self, sample: &Sample) {
        let folder = self.path().join(sample.pid.to_string());
        let Ok(handle) = File::open(&folder) else {
            return;
        };
        let text = fs::read_to_string(folder.join("stat")).unwrap_or_default();
        let found = self.sample(sample.pid, &text);
        if found.is_some_and(|found| found.started == sample.started) {
            // It may have ended just now.
            let _ = clone::kill(&handle.into());
        }
    }

    /// The files without a name that processes hold open on the device `device`, as (inode, bytes).
    pub(crate) fn nameless_files(&self, device: u64) -> Vec<(u64, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let mut files = Vec::new();
        for sample in self.take().unwrap_or_default() {
            let folder = self.path().join(format!("{}/fd", sample.pid));
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                // Follows the link to the open file itself.
                let Ok(file) = fs::metadata(entry.path()) else {
                    continue;
                };
                if file.is_file() && file.nlink() == 0 && file.dev() == device {
                    files.push((file.ino(), file.blocks() * 512));
                }
            }
        }
        files.sort_unstable();
        files.dedup_by_key(|(inode, _)| *inode);
        files
    }
}

/// Bytes of `Pss` in `smaps_rollup` below a folder; nothing where the thread there has ended.
fn proportional(folder: &Path) -> Option<u64> {
    let text = fs::read_to_string(folder.join("smaps_rollup")).ok()?;
    text.lines().find_map(|line| {
        let kib = line.strip_prefix("Pss:")?.trim().strip_suffix("kB")?;
        Some(kib.trim().parse::<u64>().ok()? * 1024)
    })
}
