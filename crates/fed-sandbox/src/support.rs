use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::unistd::{Uid, pipe2, read, write};

use crate::clone::{self, Cloned, NAMESPACES, clone_into};
use crate::identity::Maps;
use crate::process::exit;
use crate::{device, mount as tree};

/// Why sandboxes cannot be made on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Unsupported {
    /// `kernel.unprivileged_userns_clone` is 0.
    #[error(
        "the system forbids user namespaces to all but root; allow them with \
             `sudo sysctl -w kernel.unprivileged_userns_clone=1`, and for good in \
             /etc/sysctl.d/90-fed.conf"
    )]
    RootOnly,
    /// `user.max_user_namespaces` is 0, or used up.
    #[error(
        "the system allows no more user namespaces (user.max_user_namespaces is {limit}); \
             allow them with `sudo sysctl -w user.max_user_namespaces=10000`, and for good in \
             /etc/sysctl.d/90-fed.conf"
    )]
    Limit {
        /// The limit as it stands.
        limit: String,
    },
    /// Ubuntu's AppArmor takes the capabilities from user namespaces.
    #[error(
        "AppArmor restricts user namespaces, as Ubuntu 24.04 does; allow them to fed alone with the \
             profile deploy/apparmor/fed (`sudo cp deploy/apparmor/fed /etc/apparmor.d/fed && sudo \
             apparmor_parser -r /etc/apparmor.d/fed`), or to every program with \
             `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    )]
    AppArmor,
    /// The kernel lacks a call that sandboxes need.
    #[error("the kernel lacks mount_setattr; run Linux 5.12 or newer (see `uname -r`)")]
    Kernel,
    /// There is no `/dev/net/tun`, or no driver behind it.
    #[error(
        "there is no working /dev/net/tun ({source}); load its driver with \
             `sudo modprobe tun`, and at each boot by a line `tun` in /etc/modules-load.d/fed.conf"
    )]
    TunMissing {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// `/dev/net/tun` may not be opened.
    #[error("/dev/net/tun may not be opened; allow it with `sudo chmod 0666 /dev/net/tun`")]
    TunForbidden,
    /// No device can be made.
    #[error(
        "the system refuses to make a TUN device in a network namespace ({source}); see \
             `sudo dmesg` for the security module that does"
    )]
    TunRefused {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// `/proc` cannot be mounted, mostly since a container hides parts of it.
    #[error(
        "/proc cannot be mounted in a PID namespace ({source}); if this is a container, start \
             it with `--security-opt systempaths=unconfined`"
    )]
    Proc {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Namespaces are refused for a reason that the system's settings do not show.
    #[error(
        "the system refuses new namespaces ({source}); if this is a container, start it with \
             `--security-opt seccomp=unconfined`, else see `sudo dmesg`"
    )]
    Namespaces {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The trial could not be made.
    #[error(
        "cannot try whether sandboxes work here ({source}); check the limits on open files \
             and processes with `ulimit -a`"
    )]
    Trial {
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Tells whether sandboxes can be made here, by making the namespaces and a TUN device on trial,
/// and if not, what forbids it. May be called with any number of threads.
///
/// # Errors
/// [`Unsupported`], in one sentence with the remedy.
pub fn check() -> Result<(), Unsupported> {
    if !tree::is_supported() {
        return Err(Unsupported::Kernel);
    }
    match trial(true) {
        Err((Trial::Clone, _)) if Uid::effective().is_root() => trial(false),
        tried => tried,
    }
    .map_err(|(step, errno)| explain(step, errno))
}

/// Finds the setting that makes the kernel refuse namespaces.
pub(crate) fn namespaces_refused(errno: Errno) -> Unsupported {
    let limit = setting("user/max_user_namespaces");
    if setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Unsupported::RootOnly;
    }
    match (errno, limit) {
        (Errno::ENOSPC | Errno::EUSERS, Some(limit)) => Unsupported::Limit { limit },
        (_, Some(limit)) if limit == "0" => Unsupported::Limit { limit },
        _ if is_restricted_by_apparmor() => Unsupported::AppArmor,
        (errno, _) => Unsupported::Namespaces {
            source: errno.into(),
        },
    }
}

fn is_restricted_by_apparmor() -> bool {
    setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")
}

fn setting(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{name}"))
        .ok()
        .map(|text| text.trim().to_owned())
}

/// The steps of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    Prepare,
    Clone,
    Map,
    TunOpen,
    TunMake,
    Private,
    Proc,
}

const TRIALS: [Trial; 5] = [
    Trial::Map,
    Trial::TunOpen,
    Trial::TunMake,
    Trial::Private,
    Trial::Proc,
];

fn explain(step: Trial, errno: Errno) -> Unsupported {
    let source = io::Error::from(errno);
    let forbidden = matches!(errno, Errno::EPERM | Errno::EACCES);
    match step {
        Trial::Prepare => Unsupported::Trial { source },
        Trial::TunOpen if forbidden => Unsupported::TunForbidden,
        Trial::TunOpen => Unsupported::TunMissing { source },
        Trial::Clone => namespaces_refused(errno),
        Trial::Map | Trial::TunMake | Trial::Private | Trial::Proc
            if forbidden && !Uid::effective().is_root() && is_restricted_by_apparmor() =>
        {
            Unsupported::AppArmor
        }
        Trial::TunMake => Unsupported::TunRefused { source },
        Trial::Proc => Unsupported::Proc { source },
        Trial::Map | Trial::Private => Unsupported::Namespaces { source },
    }
}

/// Makes the namespaces with a process that does what a sandbox needs, and ends.
fn trial(own_users: bool) -> Result<(), (Trial, Errno)> {
    let prepare = |errno| (Trial::Prepare, errno);
    let maps = own_users.then(Maps::of_caller);
    let users = if own_users {
        CloneFlags::CLONE_NEWUSER
    } else {
        CloneFlags::empty()
    };
    let (result, tell) = pipe2(OFlag::O_CLOEXEC).map_err(prepare)?;
    #[expect(unsafe_code, reason = "the trial is made by a fork")]
    // SAFETY: the child makes system calls only: it neither allocates nor takes a lock.
    let cloned = unsafe { clone_into(NAMESPACES | users) };
    match cloned.map_err(|errno| (Trial::Clone, errno))? {
        Cloned::Child => {
            if let Err((step, errno)) = try_steps(maps.as_ref()) {
                report(&tell, step, errno);
            }
            exit(0)
        }
        Cloned::Parent { pid, .. } => {
            drop(tell);
            let mut bytes = [0; 5];
            let length = read(&result, &mut bytes).map_err(prepare)?;
            clone::reap(pid);
            if length == 0 {
                Ok(())
            } else {
                Err(reported(bytes))
            }
        }
    }
}

fn try_steps(maps: Option<&Maps>) -> Result<(), (Trial, Errno)> {
    let at = |step| move |errno| (step, errno);
    if let Some(maps) = maps {
        maps.write().map_err(|(_, errno)| (Trial::Map, errno))?;
    }
    let driver = device::open_driver().map_err(at(Trial::TunOpen))?;
    device::make_tun(&driver, "fed-trial").map_err(at(Trial::TunMake))?;
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(at(Trial::Private))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).map_err(at(Trial::Proc))
}

fn report(tell: &OwnedFd, step: Trial, errno: Errno) {
    let step = TRIALS.iter().position(|trial| *trial == step).unwrap_or(0);
    let [a, b, c, d] = (errno as i32).to_ne_bytes();
    let bytes = [u8::try_from(step).unwrap_or(0), a, b, c, d];
    // A parent that is gone needs no answer.
    let _ = write(tell, &bytes);
}

fn reported([step, a, b, c, d]: [u8; 5]) -> (Trial, Errno) {
    let step = TRIALS
        .get(usize::from(step))
        .copied()
        .unwrap_or(Trial::Prepare);
    (step, Errno::from_raw(i32::from_ne_bytes([a, b, c, d])))
}
