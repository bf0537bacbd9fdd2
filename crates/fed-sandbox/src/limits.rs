//! What the processes of a sandbox may use, and who sees to it.
//!
//! The kernel itself bounds the number of processes of the sandbox, the size of each file and of
//! `/dev/shm`, and is told to take these processes first when the machine runs out of memory
//! ([`Quotas`]). The outer half looks how much each process that it started uses with all that
//! descends from it ([`Allowance`]), and how much the scratch folder holds.

use std::fmt;
use std::fs;
use std::path::Path;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::failure::{At, Failure, Step};
use crate::root::UserNamespace;
use crate::spec::ProcessId;

/// Numbers below this one are given to no process of a PID namespace but its first ones
/// (`RESERVED_PIDS` in the kernel's pid.c).
const RESERVED_PIDS: u32 = 300;

/// How much nicer processes are than the outer half: each counts a tenth of it where both want the
/// processor (`sched_prio_to_weight` in the kernel's sched/core.c).
const NICER: i32 = 10;

/// What all processes of a sandbox may use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quotas {
    /// Processes and threads; a further one cannot be made. Up to 300 more can, once, where the
    /// kernel counts numbers.
    ///
    /// The kernel counts them for each PID namespace since Linux 6.14, and for users other than
    /// root in each user namespace since 5.14. Elsewhere only [`Allowance::processes`] counts.
    pub processes: u32,
    /// Bytes that `/dev/shm` holds.
    pub shared_memory_bytes: u64,
    /// Bytes that the scratch folder holds. Also the size of the largest file. When there are
    /// more, [`Excess`] says so, and it is for the outer half to act.
    pub scratch_bytes: u64,
}

/// What a process may use together with all that descends from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// Bytes of memory; what several processes share counts once.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
}

/// More was used than is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Whose allowance it was; of the scratch folder, and of processes whose origin is not known,
    /// nobody's.
    pub process: Option<ProcessId>,
    /// What there was too much of.
    pub resource: Resources,
    /// How much there was: bytes, or processes and threads, or files.
    pub used: u64,
    /// How much there may be.
    pub limit: u64,
}

/// What is limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resources {
    /// Bytes of memory.
    Memory,
    /// Processes and threads.
    Processes,
    /// Bytes in the scratch folder, of which the largest file is named.
    Scratch {
        /// Its path in the folder, with its size in bytes; empty where the file has no name.
        largest: String,
    },
    /// Files in the scratch folder.
    Files,
    /// Folders of the scratch folder that cannot be looked into.
    Hidden {
        /// One of them.
        folder: String,
    },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { used, limit, .. } = self;
        let (has, may) = (Mebibytes(*used), Mebibytes(*limit));
        match &self.resource {
            Resources::Memory => write!(
                f,
                "with all that it started it held {has} of memory, and it may hold {may}"
            ),
            Resources::Processes => write!(
                f,
                "with all that it started it had {used} processes and threads, and it may have {limit}"
            ),
            Resources::Scratch { largest } => write!(
                f,
                "the scratch folder held {has}, and it may hold {may}; the largest file was {largest}"
            ),
            Resources::Files => {
                write!(
                    f,
                    "the scratch folder held {used} files, and it may hold {limit}"
                )
            }
            Resources::Hidden { folder } => write!(
                f,
                "the scratch folder held a folder that cannot be looked into, {folder}"
            ),
        }
    }
}

struct Mebibytes(u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

/// Has the kernel take this process, and all that it will start, before any other when memory runs
/// out. They cannot undo it: their `/proc` is read-only.
pub(crate) fn be_taken_first() -> Result<(), Failure> {
    let file = "/proc/self/oom_score_adj";
    fs::write(file, "1000").at(Step::Limit, file)
}

/// Quotas the numbers of a PID namespace, by its `/proc`, which is mounted at `proc`.
pub(crate) fn limit_numbers(proc: &Path, quotas: &Quotas) -> Result<(), Failure> {
    // Before, the number was the whole machine's, and root would have changed it there.
    if kernel_version() < (6, 14) {
        return Ok(());
    }
    let file = proc.join("sys/kernel/pid_max");
    let most = quotas.processes.saturating_add(RESERVED_PIDS);
    let whole = fs::read_to_string(&file).at(Step::Limit, &file)?;
    let most = whole.trim().parse().map_or(most, |whole| most.min(whole));
    fs::write(&file, most.to_string()).at(Step::Limit, &file)
}

/// Quotas a process that is about to run its program, and all that descends from it.
pub(crate) fn limit_process(quotas: &Quotas, users: UserNamespace) -> nix::Result<()> {
    be_nice();
    lower(Resource::RLIMIT_FSIZE, quotas.scratch_bytes)?;
    // Before, all processes of the user counted, wherever they were.
    if users == UserNamespace::Own && kernel_version() >= (5, 14) {
        lower(Resource::RLIMIT_NPROC, u64::from(quotas.processes))?;
    }
    Ok(())
}

/// Leaves the processor to others where it is wanted: to the outer half, which has to see to it that
/// thousands of busy processes end, and carries the packets; and to the host's own programs.
fn be_nice() {
    #[expect(unsafe_code, reason = "no wrapper exists for nice")]
    // SAFETY: it takes an integer only. To be nicer is nobody refused.
    unsafe {
        libc::nice(NICER)
    };
}

fn lower(resource: Resource, most: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let most = most.min(hard);
    setrlimit(resource, most, most)
}

/// Version and patch level of the kernel; zeros if it does not say.
fn kernel_version() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
