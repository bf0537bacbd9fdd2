use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// The step at which a sandbox could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Reading the specification.
    Spec,
    /// Finding a path that is to be visible inside.
    Find,
    /// Setting up PID 1 itself: descriptors, signals, session.
    Init,
    /// Writing the user and group maps.
    Map,
    /// Opening `/dev/net/tun`.
    TunOpen,
    /// Making the TUN device.
    TunMake,
    /// Setting up a network device over netlink.
    Network,
    /// Parting the mounts from the host's.
    Private,
    /// Taking hold of a path that is to be visible inside.
    Bind,
    /// Making a path read-only.
    ReadOnly,
    /// Making the sandbox's root.
    Root,
    /// Placing a path in the sandbox's root.
    Place,
    /// Mounting `/proc`.
    Proc,
    /// Changing into the sandbox's root.
    Pivot,
    /// Setting the host name.
    Hostname,
    /// Giving up the capabilities.
    Capabilities,
    /// Limiting what the processes may use.
    Limit,
    /// Handing the TUN to the outer half.
    Report,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spec => "use the specification's",
            Self::Find => "find",
            Self::Init => "set up PID 1",
            Self::Map => "map users in",
            Self::TunOpen => "open",
            Self::TunMake => "make the TUN device",
            Self::Network => "set up the network device",
            Self::Private => "part the mounts of",
            Self::Bind => "bind",
            Self::ReadOnly => "make read-only",
            Self::Root => "make the root on",
            Self::Place => "place",
            Self::Proc => "mount",
            Self::Pivot => "change the root to",
            Self::Hostname => "set the host name",
            Self::Capabilities => "give up the capabilities",
            Self::Limit => "limit the processes by",
            Self::Report => "hand out the TUN device",
        })
    }
}

/// A step that failed, as it crosses from PID 1 to the outer half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    /// The path or name concerned; lossy where it is not UTF-8, so that it can be told anyway.
    pub(crate) subject: PathBuf,
    pub(crate) errno: i32,
}

impl Failure {
    pub(crate) fn new(step: Step, subject: impl AsRef<Path>, errno: Errno) -> Self {
        Self {
            step,
            subject: PathBuf::from(subject.as_ref().to_string_lossy().into_owned()),
            errno: errno as i32,
        }
    }

    pub(crate) fn io(step: Step, subject: impl AsRef<Path>, error: &io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        Self::new(step, subject, errno)
    }

    pub(crate) fn source(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }

    /// What the user can do about it.
    pub(crate) fn remedy(&self) -> &'static str {
        use Step as S;
        match (self.step, Errno::from_raw(self.errno)) {
            (S::Find | S::Bind, Errno::ENOENT) => {
                "make it, or take it out of the paths that the sandbox shows"
            }
            (S::Find | S::Bind, Errno::EACCES | Errno::EPERM) => {
                "let the user who runs fed read it and pass through its parent folders"
            }
            (S::TunOpen, Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
                "load the driver: `sudo modprobe tun`"
            }
            (S::TunOpen, Errno::EACCES | Errno::EPERM) => {
                "allow it: `sudo chmod 0666 /dev/net/tun`"
            }
            (S::Proc, Errno::EPERM) => {
                "in a container, start that with `--security-opt systempaths=unconfined`"
            }
            (S::ReadOnly | S::Bind, Errno::ENOSYS) => "Linux 5.12 or newer is needed",
            (S::Map | S::TunMake | S::Network | S::Private | S::Root | S::Pivot, Errno::EPERM)
            | (S::Map | S::Private | S::Root | S::Pivot, Errno::EACCES) => {
                "allow user namespaces to fed with the AppArmor profile deploy/apparmor/fed, or to all: \
                 `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
            }
            (S::Network, Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::EACCES) => {
                "switch IPv6 on: `sysctl net.ipv6.conf.all.disable_ipv6` and the kernel's command \
                 line (`cat /proc/cmdline`) say where it is off"
            }
            (S::Spec, _) => "correct the specification",
            (S::Place, _) => {
                "check that the path is not hidden by another one that the sandbox shows"
            }
            _ => "see whether the kernel's log (`dmesg`) or a security module names the reason",
        }
    }
}

/// Attaches the step and the path to a system call's error.
pub(crate) trait At<T> {
    fn at(self, step: Step, subject: impl AsRef<Path>) -> Result<T, Failure>;
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, step: Step, subject: impl AsRef<Path>) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(step, subject, errno))
    }
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: Step, subject: impl AsRef<Path>) -> Result<T, Failure> {
        self.map_err(|error| Failure::io(step, subject, &error))
    }
}
