//! The single steps by which a new process becomes the init of a host.
//!
//! They run between `clone` and `exec` in a process that may be a copy of one thread of many, so
//! [`Step::apply`] makes system calls only: it allocates nothing and takes no lock.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, mkdir, pivot_root, symlinkat, write};

/// One step. Paths are absolute, as they stand while the new root is being built.
#[derive(Debug)]
pub(super) enum Step {
    /// Cuts the mounts off from the machine's, so that none made here appears there.
    Detach,
    /// Mounts an empty file system with these mount options.
    Tmpfs {
        target: CString,
        options: CString,
    },
    Proc(CString),
    Directory(CString),
    File {
        target: CString,
        content: Vec<u8>,
    },
    Link {
        target: CString,
        to: CString,
    },
    /// Binds with all mounts below the source.
    Bind {
        source: CString,
        target: CString,
    },
    /// Makes a bound tree read-only, with all mounts below.
    ReadOnly(CString),
    /// Makes this directory the root, and lets go of the machine's.
    Pivot(CString),
    Hostname(CString),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |path: &CStr| path.to_string_lossy().into_owned();
        match self {
            Self::Detach => f.write_str("make the mounts private"),
            Self::Tmpfs { target, .. } => write!(f, "mount a tmpfs at {}", text(target)),
            Self::Proc(at) => write!(f, "mount proc at {}", text(at)),
            Self::Directory(at) => write!(f, "make the directory {}", text(at)),
            Self::File { target, .. } => write!(f, "write {}", text(target)),
            Self::Link { target, .. } => write!(f, "make the link {}", text(target)),
            Self::Bind { source, target } => write!(f, "bind {} at {}", text(source), text(target)),
            Self::ReadOnly(at) => write!(f, "make {} read-only", text(at)),
            Self::Pivot(root) => write!(f, "make {} the root", text(root)),
            Self::Hostname(name) => write!(f, "set the host name {}", text(name)),
        }
    }
}

impl Step {
    pub(super) fn apply(&self) -> Result<(), Errno> {
        match self {
            Self::Detach => attach(None, c"/", MsFlags::MS_REC | MsFlags::MS_PRIVATE),
            Self::Tmpfs { target, options } => {
                let (kind, options) = (Some(c"tmpfs"), Some(options.as_c_str()));
                mount(kind, target.as_c_str(), kind, NO_DEV, options)
            }
            Self::Proc(at) => {
                let flags = NO_DEV | MsFlags::MS_NOEXEC;
                mount(
                    Some(c"proc"),
                    at.as_c_str(),
                    Some(c"proc"),
                    flags,
                    None::<&CStr>,
                )
            }
            Self::Directory(at) => mkdir(at.as_c_str(), Mode::from_bits_truncate(0o755)),
            Self::File { target, content } => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                let file = open(target.as_c_str(), flags, Mode::from_bits_truncate(0o644))?;
                let written = write(&file, content)?;
                if written == content.len() {
                    Ok(())
                } else {
                    Err(Errno::ENOSPC)
                }
            }
            Self::Link { target, to } => {
                symlinkat(to.as_c_str(), nix::fcntl::AT_FDCWD, target.as_c_str())
            }
            Self::Bind { source, target } => {
                attach(Some(source), target, MsFlags::MS_BIND | MsFlags::MS_REC)
            }
            Self::ReadOnly(at) => make_read_only(at),
            Self::Pivot(root) => {
                chdir(root.as_c_str())?;
                pivot_root(c".", c".")?;
                umount2(c".", MntFlags::MNT_DETACH)?;
                chdir(c"/")
            }
            Self::Hostname(name) => set_hostname(name),
        }
    }
}

const NO_DEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

fn attach(source: Option<&CString>, target: &CStr, flags: MsFlags) -> Result<(), Errno> {
    mount(
        source.map(CString::as_c_str),
        target,
        None::<&CStr>,
        flags,
        None::<&CStr>,
    )
}

#[expect(unsafe_code, reason = "mount_setattr has no wrapper in nix")]
fn make_read_only(at: &CStr) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string and the attributes live until the call returns; their size
    // is passed beside them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            nix::fcntl::AT_FDCWD.as_raw_fd(),
            at.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

#[expect(
    unsafe_code,
    reason = "nix's sethostname takes an OsStr, this one a C string"
)]
fn set_hostname(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the pointer is valid for the length of the C string.
    let result = unsafe { libc::sethostname(name.as_ptr(), name.count_bytes()) };
    Errno::result(result).map(drop)
}
