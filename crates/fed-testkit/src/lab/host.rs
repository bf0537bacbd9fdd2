//! One host of a lab, and programs in it.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use super::entry::{HostUser, enter};
use super::init::{Init, pidfd_open};
use crate::procfs::{self, Process};

/// Why a program could not be run in a host.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such host, or it may not be entered.
    #[error(
        "cannot enter the host whose first process is {pid}; is its lab running, as this user?"
    )]
    Host {
        /// The process id given.
        pid: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program could not be started in the host.
    #[error("cannot run {program:?} in the host; is it visible there, and executable?")]
    Program {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// One host: a network, mount, host-name and PID namespace of its own.
#[derive(Debug)]
pub struct Host {
    name: String,
    addr4: Ipv4Addr,
    addr6: Ipv6Addr,
    init: Init,
    pidfd: Arc<OwnedFd>,
}

impl Host {
    pub(super) fn new(
        name: String,
        addr4: Ipv4Addr,
        addr6: Ipv6Addr,
        init: Init,
    ) -> io::Result<Self> {
        let pidfd = Arc::new(init.pidfd().try_clone()?);
        Ok(Self {
            name,
            addr4,
            addr6,
            init,
            pidfd,
        })
    }

    /// Its name: also its host name, and its name in every host's `/etc/hosts`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address on the WAN, in a /24.
    #[must_use]
    pub fn addr4(&self) -> Ipv4Addr {
        self.addr4
    }

    /// Its IPv6 address on the WAN, in a /64.
    #[must_use]
    pub fn addr6(&self) -> Ipv6Addr {
        self.addr6
    }

    /// The process id of its first process: for `nsenter`, and for `/proc/PID/root`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.init.pid().as_raw().unsigned_abs()
    }

    /// The machine's path of a path inside this host, readable while the host runs.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/root/{}",
            self.pid(),
            inside.trim_start_matches('/')
        ))
    }

    /// A command that runs `program` in this host.
    ///
    /// [`std::process::Child`] stands for a minder outside the host: killing it kills the program,
    /// other signals sent to it reach the program, and it ends with the program's status or
    /// signal. A signal to a process *group* reaches the program twice, itself and by its minder,
    /// unless the terminal sent it. The working directory keeps its path where the host has it, and is
    /// `/` elsewhere; [`Command::uid`](std::os::unix::process::CommandExt::uid) does not work, [`Self::command_as`] does.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        entering(Arc::clone(&self.pidfd), false, program.as_ref(), None)
    }

    /// A command that runs `program` in this host as another user, without any other group.
    #[must_use]
    pub fn command_as(&self, user: HostUser, program: impl AsRef<OsStr>) -> Command {
        entering(Arc::clone(&self.pidfd), false, program.as_ref(), Some(user))
    }

    /// All processes in the host, those in PID namespaces nested in it included, except its first.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn processes(&self) -> io::Result<Vec<Process>> {
        procfs::processes_of_host(self.pid())
    }
}

/// Runs a program in the host whose first process is `pid`, in place of the calling program.
///
/// The calling process must have one thread. It becomes the program's minder, as
/// [`Host::command`] tells, and enters the host's user namespace too if that is another.
///
/// # Errors
/// [`ExecError::Host`] if the host cannot be found, [`ExecError::Program`] if the program cannot
/// be run; else it does not return.
pub fn exec_in_host(
    pid: u32,
    user: Option<HostUser>,
    program: &OsStr,
    arguments: &[impl AsRef<OsStr>],
) -> Result<Infallible, ExecError> {
    let host = |source| ExecError::Host { pid, source };
    let pidfd = pidfd_open(pid.cast_signed()).map_err(|errno| host(errno.into()))?;
    let ours = fs::metadata("/proc/self/ns/user").map_err(host)?;
    let theirs = fs::metadata(format!("/proc/{pid}/ns/user")).map_err(host)?;
    let other = ours.ino() != theirs.ino();
    let source = entering(Arc::new(pidfd), other, program, user)
        .args(arguments)
        .exec();
    Err(ExecError::Program {
        program: program.to_string_lossy().into_owned(),
        source,
    })
}

#[expect(unsafe_code, reason = "pre_exec is the place between fork and exec")]
fn entering(
    pidfd: Arc<OwnedFd>,
    other_user_namespace: bool,
    program: &OsStr,
    user: Option<HostUser>,
) -> Command {
    let mut command = Command::new(program);
    // SAFETY: `enter` makes system calls only: it allocates nothing and takes no lock.
    unsafe { command.pre_exec(move || enter(&pidfd, other_user_namespace, user)) };
    command
}
