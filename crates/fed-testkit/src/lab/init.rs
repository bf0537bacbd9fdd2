//! The first process of a host: makes the host's tree, reaps its orphans, and ends with the lab.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, clone};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2, setsid};

use super::step::Step;

const STACK_BYTES: usize = 256 * 1024;
/// Reported in place of a step's number once all steps are done.
const READY: u32 = u32::MAX;

/// Why a host could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The process could not be made.
    #[error("cannot make a process in namespaces of its own")]
    Clone(#[source] io::Error),
    /// A step in the new process failed.
    #[error("cannot {step}")]
    Step {
        /// What was to be done.
        step: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The new process ended before it was ready.
    #[error("the host's first process ended before it was ready; was it killed?")]
    Died,
}

/// The first process of a host. Dropping it ends the host with all its processes, and waits.
#[derive(Debug)]
pub(super) struct Init {
    pid: Pid,
    pidfd: OwnedFd,
    life: Option<OwnedFd>,
}

impl Init {
    /// Makes a process in new namespaces and lets it take `steps`.
    pub(super) fn start(steps: &[Step]) -> Result<Self, InitError> {
        let failed = |errno: Errno| InitError::Clone(errno.into());
        let (life_end, life) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (report, report_end) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let pid =
            clone_init(steps, life_end.as_raw_fd(), report_end.as_raw_fd()).map_err(failed)?;
        drop((life_end, report_end));
        let mut init = Self {
            pid,
            pidfd: pidfd_open(pid.as_raw()).map_err(failed)?,
            life: Some(life),
        };
        let mut record = [0; 8];
        if File::from(report).read_exact(&mut record).is_err() {
            init.end();
            return Err(InitError::Died);
        }
        let (number, errno) = (u32_at(&record, 0), u32_at(&record, 4));
        if number == READY {
            return Ok(init);
        }
        let step = usize::try_from(number)
            .ok()
            .and_then(|number| steps.get(number));
        Err(InitError::Step {
            step: step.map_or_else(|| "prepare the process".to_owned(), ToString::to_string),
            source: io::Error::from_raw_os_error(errno.cast_signed()),
        })
    }

    /// Its process id as this process sees it.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    fn end(&mut self) {
        self.life = None;
        while waitpid(self.pid, None) == Err(Errno::EINTR) {}
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        self.end();
    }
}

/// Opens a descriptor of a process, closed on exec.
#[expect(unsafe_code, reason = "pidfd_open has no wrapper in nix")]
pub(super) fn pidfd_open(pid: libc::pid_t) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two integers and returns a new descriptor, which nobody else owns.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = RawFd::try_from(fd).expect("a descriptor is a small number");
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes all descriptors from `first` to `last`, both included.
#[expect(unsafe_code, reason = "close_range has no wrapper in nix")]
pub(super) fn close_range(first: u32, last: u32) {
    // SAFETY: the caller runs in a process of its own that never returns to code which owns one
    // of these descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

#[expect(unsafe_code, reason = "a process in new namespaces, made by clone")]
fn clone_init(steps: &[Step], life: RawFd, report: RawFd) -> Result<Pid, Errno> {
    let mut stack = vec![0; STACK_BYTES];
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET;
    // SAFETY: the memory is not shared, so the stack outlives the child's use of it; `run` makes
    // system calls only, neither allocates nor locks, and ends the process itself.
    unsafe {
        clone(
            Box::new(|| run(steps, life, report)),
            &mut stack,
            flags,
            Some(libc::SIGCHLD),
        )
    }
}

fn run(steps: &[Step], life: RawFd, report: RawFd) -> isize {
    keep_only(life, report);
    leave_the_terminal();
    let failed = steps
        .iter()
        .zip(0..)
        .find_map(|(step, i)| step.apply().err().map(|e| (i, e)));
    let (number, errno) = failed.map_or((READY, 0), |(number, errno)| (number, errno as u32));
    let mut record = [0; 8];
    record[..4].copy_from_slice(&number.to_ne_bytes());
    record[4..].copy_from_slice(&errno.to_ne_bytes());
    let report = own(report);
    // Without a lab to read the report, the read below ends at once as well.
    let _ = nix::unistd::write(&report, &record);
    drop(report);
    if failed.is_none() {
        let life = own(life);
        while nix::unistd::read(&life, &mut [0]) == Err(Errno::EINTR) {}
        let _ = life.into_raw_fd();
    }
    exit_now(0)
}

/// Signals come from the lab's own end alone: the terminal's and inherited handlers have no say.
/// An ignored SIGCHLD makes the kernel reap the host's orphans.
#[expect(unsafe_code, reason = "setting a signal's disposition")]
fn leave_the_terminal() {
    // A process that is a session leader already has no need of another session.
    let _ = setsid();
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    // SAFETY: no handler is installed, and the process has one thread.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
}

fn keep_only(a: RawFd, b: RawFd) {
    let (low, high) = (a.min(b).unsigned_abs(), a.max(b).unsigned_abs());
    if low > 0 {
        close_range(0, low - 1);
    }
    if high > low + 1 {
        close_range(low + 1, high - 1);
    }
    close_range(high + 1, u32::MAX);
}

#[expect(unsafe_code, reason = "a descriptor known by its number after clone")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the child's copies of these descriptors are used here alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Ends the process without running anything of the copied process's own.
#[expect(unsafe_code, reason = "_exit has no wrapper in nix")]
pub(super) fn exit_now(status: i32) -> ! {
    // SAFETY: the call does not return and touches no memory.
    unsafe { libc::_exit(status) }
}

fn u32_at(record: &[u8; 8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[at..at + 4]);
    u32::from_ne_bytes(bytes)
}
