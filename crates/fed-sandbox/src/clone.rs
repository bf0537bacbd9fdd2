use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::spec::ExitStatus;

/// The namespaces of a sandbox, the user namespace left out.
pub(crate) const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWNET
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

/// Which of the two processes is running after [`clone_into`].
pub(crate) enum Cloned {
    /// The caller, with the child's process id and pidfd (close-on-exec).
    Parent { pid: Pid, pidfd: OwnedFd },
    /// The child: PID 1 of the new PID namespace.
    Child,
}

/// Forks into new namespaces. One call instead of unshare and fork, so that PID 1 is the caller's
/// own child and no process in between can outlive either.
///
/// # Safety
///
/// As for `fork`: in a process with several threads the child may only call functions that are
/// safe in a signal handler, until it executes or exits.
#[expect(
    unsafe_code,
    reason = "no wrapper exists for clone3, nor for what it makes"
)]
pub(crate) unsafe fn clone_into(namespaces: CloneFlags) -> nix::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which all zeros is the documented default.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = widen(namespaces.bits()) | widen(libc::CLONE_PIDFD);
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = widen(libc::SIGCHLD);
    // SAFETY: args lives through the call and its size is given; no stack and no CLONE_VM, so the
    // child goes on from here on a copy of this stack.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match Errno::result(pid)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: Pid::from_raw(i32::try_from(pid).expect("a process id fits in 32 bits")),
            // SAFETY: the kernel has just made this descriptor for us alone.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Kills a process by its pidfd, which never means another one.
pub(crate) fn kill(pidfd: &OwnedFd) -> nix::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    let (pidfd, signal) = (pidfd.as_raw_fd(), libc::SIGKILL);
    #[expect(unsafe_code, reason = "no wrapper exists for pidfd_send_signal")]
    // SAFETY: a null info pointer is allowed, and stands for what kill would send.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, no_info, 0) };
    Errno::result(sent).map(drop)
}

/// A child that has ended and is yet to be reaped; its number stays in use until it is.
pub(crate) fn ended_child() -> Option<Pid> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    #[expect(
        unsafe_code,
        reason = "nix knows no real-time signals, and fails on such an end"
    )]
    // SAFETY: siginfo_t is plain data, zeros stay where no child has ended, and si_pid is what
    // waitid fills in.
    let pid = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        Errno::result(libc::waitid(libc::P_ALL, 0, &raw mut info, flags)).ok()?;
        info.si_pid()
    };
    (pid != 0).then(|| Pid::from_raw(pid))
}

/// Reaps a child that has ended.
pub(crate) fn reap(pid: Pid) -> Option<ExitStatus> {
    let mut status = 0;
    #[expect(
        unsafe_code,
        reason = "nix knows no real-time signals, and fails on such an end"
    )]
    // SAFETY: the status outlives the call.
    let reaped = unsafe { libc::waitpid(pid.as_raw(), &raw mut status, 0) };
    Errno::result(reaped).ok()?;
    Some(if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(libc::WTERMSIG(status))
    } else {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    })
}

/// Flag words of libc are signed although they are bit sets.
fn widen(flags: libc::c_int) -> u64 {
    u64::from(flags.cast_unsigned())
}

/// Counts the threads of this process.
///
/// # Errors
/// When `/proc` cannot be read.
pub(crate) fn thread_count() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}
