//! The right to make hosts: root's, or that of an ordinary user in a user namespace.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, clone, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Uid};

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const TUN: &str = "/dev/net/tun";

/// What this machine lacks for a lab, and how to allow it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The device for TAP interfaces is not there.
    #[error(
        "/dev/net/tun is missing: load the kernel module with `sudo modprobe tun`, or start the container with `--device /dev/net/tun`"
    )]
    NoTun,
    /// The device for TAP interfaces may not be used.
    #[error(
        "/dev/net/tun may not be opened by this user: allow it with `sudo chmod 0666 /dev/net/tun`, and for good with the udev rule KERNEL==\"tun\", MODE=\"0666\" in /etc/udev/rules.d/50-tun.rules"
    )]
    TunForbidden,
    /// The kernel lets ordinary users make no user namespace.
    #[error(
        "user namespaces are forbidden to ordinary users: allow them with `sudo sysctl -w {setting}`, or run as root"
    )]
    UserNamespaces {
        /// The setting that allows them, as `name=value`.
        setting: &'static str,
    },
    /// The kernel forbids what is needed, for a reason that no known setting tells.
    #[error(
        "this user may not make network, mount and PID namespaces ({reason}): run as root, and in a container with the capabilities NET_ADMIN and SYS_ADMIN and without a seccomp profile"
    )]
    Namespaces {
        /// What the kernel answered.
        reason: String,
    },
    /// The process could not make a child to try things with.
    #[error("cannot try out namespaces: {reason}")]
    Probe {
        /// What the kernel answered.
        reason: String,
    },
}

/// Why [`enter`] failed.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The machine does not allow it.
    #[error("cannot make hosts on this machine")]
    Missing(#[from] Missing),
    /// The process has several threads, or the kernel refused.
    #[error("cannot enter a user namespace; call this first in main, before any thread starts")]
    Unshare(#[source] io::Error),
    /// The user could not be mapped.
    #[error("cannot write {file}")]
    Map {
        /// The file in /proc.
        file: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Gives this process the rights that a [`Lab`](crate::Lab) needs.
///
/// Root has them. An ordinary user's process goes into a new user namespace in which that user is
/// root, as `unshare -r` does. To be called first in `main`: the process must have one thread.
///
/// # Errors
/// [`EnterError::Missing`] says what to allow.
pub fn enter() -> Result<(), EnterError> {
    check()?;
    if has_capabilities() {
        return Ok(());
    }
    let (uid, gid) = (Uid::effective(), Gid::effective());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| EnterError::Unshare(errno.into()))?;
    let write = |file, text: String| {
        fs::write(file, text).map_err(|source| EnterError::Map { file, source })
    };
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Says what is missing for a lab, without changing this process.
///
/// # Errors
/// [`Missing`], whose text is one sentence with the remedy.
pub fn check() -> Result<(), Missing> {
    check_tun()?;
    if has_capabilities() {
        return Ok(());
    }
    if let Some(setting) = forbidding_setting(&|path| fs::read_to_string(path).ok()) {
        return Err(Missing::UserNamespaces { setting });
    }
    probe()
}

/// Says what is missing to a process that should have called [`enter`] already.
pub(crate) fn check_entered() -> Result<(), Missing> {
    check_tun()?;
    if has_capabilities() {
        return Ok(());
    }
    let reason = "the process has not called fed_testkit::enter() at its start".to_owned();
    Err(Missing::Namespaces { reason })
}

fn check_tun() -> Result<(), Missing> {
    match fs::OpenOptions::new().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Missing::TunForbidden),
        Err(_) => Err(Missing::NoTun),
    }
}

fn has_capabilities() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    [CAP_NET_ADMIN, CAP_SYS_ADMIN]
        .iter()
        .all(|bit| mask >> bit & 1 == 1)
}

/// The setting that would allow user namespaces, if one that is known forbids them.
fn forbidding_setting(read: &dyn Fn(&Path) -> Option<String>) -> Option<&'static str> {
    let is = |name: &str, value: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        read(Path::new(&path)).is_some_and(|text| text.trim() == value)
    };
    if is("kernel.unprivileged_userns_clone", "0") {
        return Some("kernel.unprivileged_userns_clone=1");
    }
    if is("user.max_user_namespaces", "0") {
        return Some("user.max_user_namespaces=15000");
    }
    if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        return Some("kernel.apparmor_restrict_unprivileged_userns=0");
    }
    None
}

/// Tries the namespaces in a child.
fn probe() -> Result<(), Missing> {
    let failed = |reason: Errno| Missing::Probe {
        reason: reason.to_string(),
    };
    let child = clone_probe().map_err(failed)?;
    let status = loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            other => break other.map_err(failed)?,
        }
    };
    let reason = if let WaitStatus::Exited(_, errno) = status {
        if errno == 0 {
            return Ok(());
        }
        Errno::from_raw(errno).to_string()
    } else {
        format!("{status:?}")
    };
    Err(Missing::Namespaces { reason })
}

#[expect(
    unsafe_code,
    reason = "a child by clone, which may be a copy of one thread of many"
)]
fn clone_probe() -> Result<nix::unistd::Pid, Errno> {
    let mut stack = vec![0; 64 * 1024];
    let attempt = || match try_namespaces() {
        Ok(()) => 0,
        Err(errno) => errno as isize,
    };
    // SAFETY: the memory is not shared, and the child makes system calls only.
    unsafe {
        clone(
            Box::new(attempt),
            &mut stack,
            CloneFlags::empty(),
            Some(libc::SIGCHLD),
        )
    }
}

fn try_namespaces() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET,
    )?;
    crate::lab::open_tap("probe0").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_is_named() {
        let with = |file: &'static str, text: &'static str| {
            forbidding_setting(&move |path: &Path| {
                (path == Path::new(file)).then(|| text.to_owned())
            })
        };
        let ubuntu = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        let debian = "/proc/sys/kernel/unprivileged_userns_clone";
        let limit = "/proc/sys/user/max_user_namespaces";
        assert_eq!(
            with(ubuntu, "1\n"),
            Some("kernel.apparmor_restrict_unprivileged_userns=0")
        );
        assert_eq!(
            with(debian, "0\n"),
            Some("kernel.unprivileged_userns_clone=1")
        );
        assert_eq!(with(limit, "0\n"), Some("user.max_user_namespaces=15000"));
        for (file, text) in [(ubuntu, "0\n"), (debian, "1\n"), (limit, "96365\n")] {
            assert_eq!(with(file, text), None);
        }
    }

    #[test]
    fn each_answer_is_one_line_with_a_remedy() {
        let setting = "kernel.unprivileged_userns_clone=1";
        for missing in [
            Missing::NoTun,
            Missing::TunForbidden,
            Missing::UserNamespaces { setting },
        ] {
            let text = missing.to_string();
            assert!(text.contains("sudo") && !text.contains('\n'), "{text}");
        }
    }
}
