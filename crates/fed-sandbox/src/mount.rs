//! The mount calls of Linux 5.2 and 5.12 that no wrapper exists for.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

/// Takes hold of a file or folder with all that is mounted below it, as a copy of the mounts that
/// is in no namespace yet.
pub(crate) fn open_tree(path: &Path) -> nix::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | libc::AT_RECURSIVE.cast_unsigned()
        | libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
    #[expect(unsafe_code, reason = "no wrapper exists for open_tree")]
    // SAFETY: the path is NUL-terminated and outlives the call, whose result is ours alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
        let fd = i32::try_from(Errno::result(fd)?).expect("a descriptor fits in 32 bits");
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sets mount attributes (`MOUNT_ATTR_*`) of a tree; those already set stay, as they must where
/// they are locked.
pub(crate) fn set_attributes(
    tree: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
) -> nix::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    #[expect(unsafe_code, reason = "no wrapper exists for mount_setattr")]
    // SAFETY: mount_attr is plain integers, for which zeros mean no change; it outlives the call
    // and its size is given.
    let set = unsafe {
        let mut change: libc::mount_attr = std::mem::zeroed();
        change.attr_set = attributes;
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(set).map(drop)
}

/// Mounts a tree on a path of the current namespace; a link there is not followed.
pub(crate) fn move_mount(tree: BorrowedFd<'_>, path: &Path) -> nix::Result<()> {
    let path = c_path(path)?;
    #[expect(unsafe_code, reason = "no wrapper exists for move_mount")]
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(moved).map(drop)
}

/// Tells whether the kernel has `mount_setattr`, the youngest call that sandboxes need.
pub(crate) fn is_supported() -> bool {
    let attributes = libc::MOUNT_ATTR_RDONLY;
    // SAFETY: the descriptor is never used: this one cannot be open.
    #[expect(unsafe_code, reason = "a descriptor that is not open is wanted here")]
    let nothing = unsafe { BorrowedFd::borrow_raw(i32::MAX) };
    set_attributes(nothing, attributes, false) != Err(Errno::ENOSYS)
}

fn c_path(path: &Path) -> nix::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)
}
