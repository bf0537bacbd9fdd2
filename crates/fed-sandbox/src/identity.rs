use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sys::prctl;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, write};

use crate::failure::{At, Failure, Step};

/// The maps of a sandbox's user namespace: the caller alone, onto itself, so that files keep their
/// owner. Made before the fork, because writing them must not allocate.
pub(crate) struct Maps {
    uid: String,
    gid: String,
}

impl Maps {
    pub(crate) fn of_caller() -> Self {
        let (uid, gid) = (Uid::effective(), Gid::effective());
        Self {
            uid: format!("{uid} {uid} 1\n"),
            gid: format!("{gid} {gid} 1\n"),
        }
    }

    /// Writes the maps of the calling process's own, new user namespace.
    ///
    /// # Errors
    /// The errno, with the path at fault.
    pub(crate) fn write(&self) -> Result<(), (&'static str, Errno)> {
        // A process that changed its user since its last exec is not dumpable, and then its
        // folder in /proc belongs to root.
        prctl::set_dumpable(true).map_err(|errno| ("/proc/self", errno))?;
        for (path, content) in [
            ("/proc/self/uid_map", self.uid.as_str()),
            ("/proc/self/setgroups", "deny"),
            ("/proc/self/gid_map", self.gid.as_str()),
        ] {
            let written = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
                .and_then(|file| write(file, content.as_bytes()));
            written.map_err(|errno| (path, errno))?;
        }
        Ok(())
    }
}

/// `_LINUX_CAPABILITY_VERSION_3` of linux/capability.h: two 32-bit words for each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up every capability of this process and of all that it will execute, for good.
pub(crate) fn drop_capabilities() -> Result<(), Failure> {
    let subject = Path::new("of PID 1");
    prctl::set_no_new_privs().at(Step::Capabilities, subject)?;
    drop_bounding_set().at(Step::Capabilities, subject)?;
    clear_sets().at(Step::Capabilities, subject)?;
    // PID 1 now has the same capabilities as its children, none: this alone keeps them from
    // tracing it and from reading the outer half's memory, which it is a copy of.
    prctl::set_dumpable(false).at(Step::Capabilities, subject)
}

fn drop_bounding_set() -> nix::Result<()> {
    for capability in 0..64_u64 {
        #[expect(unsafe_code, reason = "no wrapper exists for this prctl")]
        // SAFETY: this prctl takes integers only.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match Errno::result(dropped) {
            // Past the last capability that this kernel knows.
            Err(Errno::EINVAL) if capability > 0 => return Ok(()),
            dropped => dropped?,
        };
    }
    Ok(())
}

fn clear_sets() -> nix::Result<()> {
    #[expect(unsafe_code, reason = "no wrapper exists for this prctl")]
    // SAFETY: this prctl takes integers only.
    let cleared = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    Errno::result(cleared)?;
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let sets = [CapabilitySets::default(); 2];
    #[expect(unsafe_code, reason = "no wrapper exists for capset")]
    // SAFETY: both point to values laid out as linux/capability.h says for this version.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    Errno::result(set).map(drop)
}
