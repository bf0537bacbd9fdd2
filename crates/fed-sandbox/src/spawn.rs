use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, Uid};

use crate::census::Census;
use crate::clone::{self, Cloned, NAMESPACES, clone_into, thread_count};
use crate::failure::{Failure, Step};
use crate::identity::Maps;
use crate::init::{self, Birth};
use crate::inner::Inner;
use crate::plan::Plan;
use crate::root::UserNamespace;
use crate::scratch::Scratch;
use crate::spec::SandboxSpec;
use crate::support::{self, Unsupported};
use crate::wire::{self, Notice};

/// How long making a sandbox may take, in milliseconds; it takes some tens, unless a file system
/// to be shown does not answer.
const SET_UP_LIMIT_MS: u16 = 30_000;

/// How long the end of a sandbox is waited for where its owner cannot, in milliseconds.
const END_LIMIT_MS: u16 = 5_000;

/// Why a sandbox could not be made. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The caller has several threads, of which a fork would copy only one.
    #[error(
        "a sandbox can only be made by a process with one thread, and this one has {count}; \
             make it before any runtime or thread is started"
    )]
    Threads {
        /// How many threads there are.
        count: usize,
    },
    /// The caller's threads could not be counted, or it is out of descriptors.
    #[error("cannot prepare the sandbox ({what}): {source}")]
    Prepare {
        /// What was asked of the system.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// This machine does not allow sandboxes.
    #[error("cannot make the sandbox's namespaces: {source}")]
    Namespaces {
        /// What forbids them.
        #[from]
        source: Unsupported,
    },
    /// A step inside the new namespaces failed.
    #[error("cannot make the sandbox: cannot {step} {}: {source}; {remedy}", subject.display())]
    Step {
        /// What was to be done.
        step: Step,
        /// The path, or the name of the thing, that it was to be done to.
        subject: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
        /// What to do about it.
        remedy: &'static str,
    },
    /// PID 1 ended without a word.
    #[error(
        "the sandbox's PID 1 died while it was being made; see whether the kernel's log \
             (`dmesg`) tells why, such as a lack of memory"
    )]
    Died,
    /// PID 1 did not get ready in time.
    #[error(
        "the sandbox was not ready after {seconds} s; see whether all file systems that it \
             shows answer (`stat` each of them)"
    )]
    Timeout {
        /// How long it was given, in seconds.
        seconds: u16,
    },
}

impl From<Failure> for SpawnError {
    fn from(failure: Failure) -> Self {
        Self::Step {
            source: failure.source(),
            remedy: failure.remedy(),
            step: failure.step,
            subject: failure.subject,
        }
    }
}

/// A sandbox that stands, before the runtime of the outer half does. Dropping it ends it.
#[derive(Debug)]
pub struct Sandbox {
    tun: OwnedFd,
    inner: Inner,
}

impl Sandbox {
    /// The process id of the sandbox's PID 1, as the outer half sees it.
    pub fn pid(&self) -> u32 {
        self.inner.pid()
    }

    /// Takes it apart into the TUN, made with `IFF_NO_PI` and `IFF_VNET_HDR`, whose reads and
    /// writes move one IP packet each and do not block, and the client of PID 1.
    pub fn into_parts(self) -> (OwnedFd, Inner) {
        (self.tun, self.inner)
    }
}

/// Makes a sandbox: forks its PID 1 and waits until that has set it up.
///
/// To be called while the process has one thread, so before tokio, and before secrets are loaded,
/// which PID 1 would have a copy of.
///
/// # Errors
/// See [`SpawnError`]; nothing is left of the sandbox then, but the scratch folder's `tmp`.
pub fn spawn(spec: &SandboxSpec) -> Result<Sandbox, SpawnError> {
    let prepare = |what| move |source| SpawnError::Prepare { what, source };
    match thread_count().map_err(prepare("count the threads in /proc/self/task"))? {
        1 => {}
        count => return Err(SpawnError::Threads { count }),
    }
    spec.validate()?;
    let plan = Plan::new(spec)?;
    let maps = Maps::of_caller();
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|errno| prepare("make a socket pair")(errno.into()))?;
    let (users, cloned) = clone_namespaces()?;
    match cloned {
        Cloned::Child => init::main(Birth {
            spec,
            plan: &plan,
            maps: &maps,
            users,
            control: theirs,
        }),
        Cloned::Parent { pid, pidfd } => {
            drop(theirs);
            let child = Child { pid, pidfd };
            let (proc, tun) = first_notices(&ours)?;
            let scratch = match &spec.quotas {
                Some(quotas) => Some(
                    Scratch::open(&plan.scratch, quotas.scratch_bytes)
                        .map_err(prepare("open the scratch folder"))?,
                ),
                None => None,
            };
            fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                .map_err(|errno| prepare("set the socket pair non-blocking")(errno.into()))?;
            let census = Census::new(proc, child.pid());
            Ok(Sandbox {
                tun,
                inner: Inner::new(ours, child, census, scratch),
            })
        }
    }
}

/// Forks into a user namespace too; root does without one where they are forbidden.
fn clone_namespaces() -> Result<(UserNamespace, Cloned), SpawnError> {
    #[expect(unsafe_code, reason = "PID 1 is made by a fork")]
    // SAFETY: the caller has made sure that this process has one thread.
    let (with, without) = unsafe {
        match clone_into(NAMESPACES | CloneFlags::CLONE_NEWUSER) {
            Err(errno) if Uid::effective().is_root() => (Err(errno), clone_into(NAMESPACES)),
            with => (with, Err(Errno::EPERM)),
        }
    };
    match (with, without) {
        (Ok(cloned), _) => Ok((UserNamespace::Own, cloned)),
        (Err(_), Ok(cloned)) => Ok((UserNamespace::Hosts, cloned)),
        (Err(errno), Err(_)) => Err(support::namespaces_refused(errno).into()),
    }
}

/// Waits for PID 1's report: its `/proc` and the TUN.
fn first_notices(control: &OwnedFd) -> Result<(OwnedFd, OwnedFd), SpawnError> {
    let mut watched = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    let ready = loop {
        match poll(&mut watched, PollTimeout::from(SET_UP_LIMIT_MS)) {
            Err(Errno::EINTR) => {}
            ready => break ready,
        }
    };
    if ready == Ok(0) {
        return Err(SpawnError::Timeout {
            seconds: SET_UP_LIMIT_MS / 1000,
        });
    }
    match wire::receive(control.as_fd()) {
        Ok(Some((Notice::Processes, Some(proc)))) => match wire::receive(control.as_fd()) {
            Ok(Some((Notice::Ready, Some(tun)))) => Ok((proc, tun)),
            Ok(_) | Err(_) => Err(SpawnError::Died),
        },
        Ok(Some((Notice::Failed(failure), _))) => Err(failure.into()),
        Ok(_) | Err(_) => Err(SpawnError::Died),
    }
}

/// PID 1 as its parent knows it. Dropping it kills it, and with it all in the sandbox, and waits
/// for their end.
#[derive(Debug)]
pub(crate) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    /// Kills it, unless it has ended.
    pub(crate) fn kill(&self) {
        let _ = clone::kill(&self.pidfd);
    }

    /// Reaps it, if it has ended and was not reaped before.
    pub(crate) fn reap(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        let _ = waitid(Id::PIDFd(self.pidfd.as_fd()), flags);
    }
}

impl AsRawFd for Child {
    /// The pidfd, which becomes readable when all in the sandbox has ended.
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        let mut watched = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut watched, PollTimeout::from(END_LIMIT_MS));
        self.reap();
    }
}
