//! Who makes the sandbox, and on what machine.

use std::fs;

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, umask};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::world::World;

/// The user that stands for an unprivileged one.
pub(crate) const NOBODY: u32 = 65_534;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// Whoever runs the tests, without root's powers.
    User,
    /// Root.
    Root,
    /// An unprivileged user, become from root.
    Nobody,
    /// Root where user namespaces are forbidden.
    Bare,
    /// Root without capabilities where user namespaces are forbidden: no sandbox can be made.
    Powerless,
    /// An unprivileged user who may not open the TUN driver.
    NoTun,
    /// A machine without a TUN driver.
    Driverless,
    /// An unprivileged user where only root may make user namespaces, as some Debian systems have
    /// it.
    Debian,
    /// An unprivileged user in a container that refuses namespaces.
    Contained,
    /// An unprivileged user where AppArmor leaves user namespaces without power, as on Ubuntu 24.04.
    Restricted,
}

const ALL: [Caller; 10] = [
    Caller::User,
    Caller::Root,
    Caller::Nobody,
    Caller::Bare,
    Caller::Powerless,
    Caller::NoTun,
    Caller::Driverless,
    Caller::Debian,
    Caller::Contained,
    Caller::Restricted,
];

impl Caller {
    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    pub(crate) fn named(name: &str) -> Self {
        *ALL.iter().find(|caller| caller.name() == name).unwrap()
    }

    /// Those that ordinary cases run as.
    pub(crate) fn usual() -> &'static [Self] {
        if Uid::effective().is_root() {
            &[Self::Root, Self::Nobody, Self::Bare]
        } else {
            &[Self::User]
        }
    }

    /// Whether it gives up root.
    pub(crate) fn is_nobody(self) -> bool {
        match self {
            Self::User | Self::Root | Self::Bare | Self::Powerless => false,
            Self::Nobody
            | Self::NoTun
            | Self::Driverless
            | Self::Debian
            | Self::Contained
            | Self::Restricted => true,
        }
    }

    /// Whether whoever runs the tests can become this caller.
    pub(crate) fn is_possible(self) -> bool {
        self == Self::User || Uid::effective().is_root()
    }

    /// Becomes this caller, on mounts and a network of its own.
    pub(crate) fn assume(self, world: &World) {
        if self == Self::User {
            return;
        }
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount_tmpfs(&world.data().join("nested"));
        fs::write(world.data().join("nested/file"), "nested").unwrap();
        match self {
            Self::User | Self::Root => {}
            Self::Nobody => become_nobody(Some(0o666)),
            Self::NoTun => become_nobody(Some(0o600)),
            Self::Driverless => become_nobody(None),
            Self::Debian => {
                show_setting("unprivileged_userns_clone", "0");
                become_nobody(Some(0o666));
                refuse(libc::SYS_clone3, None);
            }
            Self::Contained => {
                become_nobody(Some(0o666));
                refuse(libc::SYS_clone3, None);
            }
            Self::Restricted => {
                show_setting("apparmor_restrict_unprivileged_userns", "1");
                become_nobody(Some(0o666));
                refuse(libc::SYS_ioctl, Some(libc::TUNSETIFF));
            }
            Self::Bare => forbid_user_namespaces(),
            Self::Powerless => {
                forbid_user_namespaces();
                drop_capabilities();
            }
        }
    }
}

fn mount_tmpfs(path: &std::path::Path) {
    mount(
        Some("test"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
}

/// Gives the machine, as this process sees it, a TUN driver of the given mode, and gives up root.
fn become_nobody(tun_mode: Option<u32>) {
    mount_tmpfs("/dev/net".as_ref());
    if let Some(mode) = tun_mode {
        let old = umask(Mode::empty());
        let mode = Mode::from_bits_truncate(mode);
        mknod("/dev/net/tun", SFlag::S_IFCHR, mode, makedev(10, 200)).unwrap();
        umask(old);
    }
    setgroups(&[]).unwrap();
    setgid(Gid::from_raw(NOBODY)).unwrap();
    setuid(Uid::from_raw(NOBODY)).unwrap();
}

/// Sets the limit on user namespaces to 0 in a user namespace, whose root then stands for a
/// machine's.
fn forbid_user_namespaces() {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .unwrap();
    fs::write("/proc/self/uid_map", "0 0 1").unwrap();
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/gid_map", "0 0 1").unwrap();
    fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
}

/// Shows a setting that this machine's kernel may not have, in place of those below `kernel`.
fn show_setting(name: &str, value: &str) {
    mount_tmpfs("/proc/sys/kernel".as_ref());
    fs::write(format!("/proc/sys/kernel/{name}"), value).unwrap();
}

/// Has the kernel refuse a system call from here on, as a security module or a container's filter
/// does: all such calls, or those whose second argument is this.
fn refuse(call: libc::c_long, second: Option<libc::Ioctl>) {
    // Where struct seccomp_data has the call's number and the lower half of its second argument.
    const NUMBER: u32 = 0;
    const SECOND: u32 = 24;
    let load = |offset| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset);
    let end = |answer| step(libc::BPF_RET | libc::BPF_K, 0, answer);
    // Where it is another, so many steps are left out.
    let is = |value, others| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, others, value);
    let number = u32::try_from(call).unwrap();
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    let mut steps = match second {
        None => vec![load(NUMBER), is(number, 1)],
        Some(argument) => {
            let argument = u32::try_from(argument).unwrap();
            vec![load(NUMBER), is(number, 3), load(SECOND), is(argument, 1)]
        }
    };
    steps.extend([end(refused), end(libc::SECCOMP_RET_ALLOW)]);
    let filter = libc::sock_fprog {
        len: u16::try_from(steps.len()).unwrap(),
        filter: steps.as_mut_ptr(),
    };
    #[expect(unsafe_code, reason = "no wrapper exists for filters of system calls")]
    // SAFETY: the filter and its steps live through the calls, and the length is theirs.
    let set = unsafe {
        [
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const filter,
            ),
        ]
    };
    assert_eq!(set, [0, 0]);
}

/// A step of a filter: what to do, how many steps to leave out where a comparison fails, a number.
fn step(code: u32, otherwise: u8, number: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: 0,
        jf: otherwise,
        k: number,
    }
}

fn drop_capabilities() {
    let header = [0x2008_0522_u32, 0];
    let sets = [0_u32; 6];
    #[expect(unsafe_code, reason = "no wrapper exists for capset")]
    // SAFETY: header and sets are laid out as linux/capability.h says.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(set, 0);
}
