//! Running a program in a host: a minder outside, the program inside.
//!
//! A process cannot change its own PID namespace, only that of its children. So the process that
//! is about to run a program forks: the child enters and runs it, the parent stays as its minder
//! under the process id that the caller knows. It passes signals on, ends as the program ends, and
//! takes the program with it when it is killed.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, raise, signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, setgid, setgroups, setuid};

use super::init::{close_range, exit_now, pidfd_open};

/// A user and group, by number, to run a program as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostUser {
    /// The user's number.
    pub uid: u32,
    /// The group's number; other groups are given up.
    pub gid: u32,
}

/// The namespaces of a host, except the one that only children enter.
const SURROUNDINGS: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWNET);

/// Returns in a child inside the namespaces of the process `init`, its user namespace included if
/// `other_user_namespace`; the calling process becomes its minder and never returns.
///
/// To be called between fork and exec, or in a process with one thread: it makes system calls
/// only. The working directory keeps its path where the host has it, and is `/` elsewhere.
pub(super) fn enter(
    init: &OwnedFd,
    other_user_namespace: bool,
    user: Option<HostUser>,
) -> io::Result<()> {
    let mut kinds = CloneFlags::CLONE_NEWPID;
    kinds.set(CloneFlags::CLONE_NEWUSER, other_user_namespace);
    setns(init.as_fd(), kinds)?;
    let minder = pidfd_open(std::process::id().cast_signed())?;
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut mask))?;
    let caller_sigchld = default_sigchld()?;
    match fork_here()? {
        ForkResult::Child => {
            restore_sigchld(caller_sigchld)?;
            enter_surroundings(init)?;
            become_program(&minder, &mask, user)
        }
        ForkResult::Parent { child } => mind(child),
    }
}

fn enter_surroundings(init: &OwnedFd) -> io::Result<()> {
    let mut directory = [0; libc::PATH_MAX as usize];
    let known = working_directory(&mut directory);
    setns(init.as_fd(), SURROUNDINGS)?;
    if !(known && change_directory(&directory)) {
        nix::unistd::chdir(c"/")?;
    }
    Ok(())
}

fn become_program(minder: &OwnedFd, mask: &SigSet, user: Option<HostUser>) -> io::Result<()> {
    if let Some(HostUser { uid, gid }) = user {
        setgroups(&[])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))?;
    }
    // After the change of user, which would clear it.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut fds = [PollFd::new(minder.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::ZERO)? > 0 {
        // The minder was killed before the line above could tie this process to it.
        exit_now(0);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)?;
    Ok(())
}

/// Waits for the program, passing signals on, and ends as it ended.
fn mind(program: Pid) -> ! {
    // An open pipe here would keep its reader waiting after the program has closed it.
    close_range(0, u32::MAX);
    loop {
        match next_signal() {
            Some((libc::SIGCHLD, _)) => end_with(program),
            // What the terminal sends, it sends to the program too: they share a process group.
            Some((_, code)) if code > 0 => {}
            Some((number, _)) => {
                if let Ok(signal) = Signal::try_from(number) {
                    // A program that has just ended is reported by the next SIGCHLD.
                    let _ = kill(program, signal);
                }
            }
            None => {}
        }
    }
}

fn end_with(program: Pid) {
    match waitpid(program, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, status)) => exit_now(status),
        Ok(WaitStatus::Signaled(_, signal, _)) => die_of(signal),
        Err(Errno::ECHILD) => exit_now(127),
        Ok(_) | Err(_) => {}
    }
}

#[expect(unsafe_code, reason = "setting a signal's disposition")]
fn die_of(number: Signal) -> ! {
    // The program has dumped its core where it was to; the minder's would overwrite it.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: no handler is installed, and the process has one thread.
    let _ = unsafe { signal(number, SigHandler::SigDfl) };
    let _ = raise(number);
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from(number)), None);
    exit_now(128 + number as i32)
}

/// Waits for a signal. Returns its number and code: positive codes come from the kernel.
#[expect(unsafe_code, reason = "sigwaitinfo has no wrapper in nix")]
fn next_signal() -> Option<(i32, i32)> {
    // SAFETY: all fields of the structure are integers: zero is a value of each.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set and the structure live until the call returns.
    let number = unsafe { libc::sigwaitinfo(SigSet::all().as_ref(), &raw mut info) };
    (number > 0).then_some((number, info.si_code))
}

#[expect(unsafe_code, reason = "fork")]
fn fork_here() -> Result<ForkResult, Errno> {
    // SAFETY: the process has one thread, since it is itself between fork and exec, or its caller
    // has promised so.
    unsafe { fork() }
}

/// An ignored SIGCHLD, inherited from the caller, would hide how the program ends.
#[expect(unsafe_code, reason = "setting a signal's disposition")]
fn default_sigchld() -> Result<SigHandler, Errno> {
    // SAFETY: no handler is installed, and the process has one thread.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }
}

#[expect(unsafe_code, reason = "setting a signal's disposition")]
fn restore_sigchld(handler: SigHandler) -> Result<(), Errno> {
    // SAFETY: the handler was in place before, and exec resets it to the default.
    unsafe { signal(Signal::SIGCHLD, handler) }.map(drop)
}

#[expect(unsafe_code, reason = "nix's getcwd allocates")]
fn working_directory(buffer: &mut [u8]) -> bool {
    // SAFETY: the buffer is writable for its length.
    let result = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    // A directory outside the root is reported without a leading slash.
    result > 0 && buffer[0] == b'/'
}

fn change_directory(buffer: &[u8]) -> bool {
    let path = std::ffi::CStr::from_bytes_until_nul(buffer);
    path.is_ok_and(|path| nix::unistd::chdir(path).is_ok())
}
