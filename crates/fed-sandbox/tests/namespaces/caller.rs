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
}

const ALL: [Caller; 7] = [
    Caller::User,
    Caller::Root,
    Caller::Nobody,
    Caller::Bare,
    Caller::Powerless,
    Caller::NoTun,
    Caller::Driverless,
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

fn drop_capabilities() {
    let header = [0x2008_0522_u32, 0];
    let sets = [0_u32; 6];
    #[expect(unsafe_code, reason = "no wrapper exists for capset")]
    // SAFETY: header and sets are laid out as linux/capability.h says.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(set, 0);
}
