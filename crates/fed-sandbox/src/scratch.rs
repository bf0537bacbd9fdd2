//! How much the scratch folder of a sandbox holds, as seen from outside.
//!
//! The processes inside may change the folder meanwhile: nothing here follows a link.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statvfs::fstatvfs;

use crate::census::Census;
use crate::limits::{Excess, Resources};

/// Most files of a scratch folder, folders included: so that it can be looked through in seconds.
const MOST_FILES: u64 = 1_000_000;

/// A scratch folder and what it may hold.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: File,
    device: u64,
    limit_bytes: u64,
}

/// What a look found.
#[derive(Debug, Default)]
struct Found {
    bytes: u64,
    files: u64,
    largest: Option<(u64, PathBuf)>,
    hidden: Option<PathBuf>,
}

impl Scratch {
    /// Takes hold of a folder, which nobody can replace yet.
    pub(crate) fn open(folder: &Path, limit_bytes: u64) -> io::Result<Self> {
        let folder = File::open(folder)?;
        let device = folder.metadata()?.dev();
        Ok(Self {
            folder,
            device,
            limit_bytes,
        })
    }

    /// What there may be, in bytes.
    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Bytes that the file system has left, for whomever.
    pub(crate) fn left_bytes(&self) -> io::Result<u64> {
        let status = fstatvfs(&self.folder)?;
        Ok(status.blocks_available() * status.fragment_size())
    }

    /// Looks through the folder. More than is allowed is told; what is found after that is not.
    pub(crate) fn look(&self, census: &Census) -> Option<Excess> {
        let mut found = Found::default();
        let mut folders = vec![PathBuf::from(".")];
        while let Some(folder) = folders.pop() {
            if let Err(error) = self.look_into(&folder, &mut folders, &mut found)
                && error.kind() != io::ErrorKind::NotFound
            {
                found.hidden.get_or_insert(folder);
            }
            if found.files > MOST_FILES || found.hidden.is_some() {
                break;
            }
        }
        for (_, bytes) in census.nameless_files(self.device) {
            found.bytes += bytes;
            if found.largest.as_ref().is_none_or(|(most, _)| *most < bytes) {
                found.largest = Some((bytes, PathBuf::new()));
            }
        }
        self.judge(found)
    }

    fn judge(&self, found: Found) -> Option<Excess> {
        let excess = |resource, used, limit| {
            Some(Excess {
                process: None,
                resource,
                used,
                limit,
            })
        };
        if found.bytes > self.limit_bytes {
            let largest = match found.largest {
                Some((bytes, path)) if path.as_os_str().is_empty() => {
                    format!("one without a name ({} MiB)", bytes.div_ceil(1 << 20))
                }
                Some((bytes, path)) => {
                    format!("{:?} ({} MiB)", path, bytes.div_ceil(1 << 20))
                }
                None => "none".to_owned(),
            };
            return excess(
                Resources::Scratch { largest },
                found.bytes,
                self.limit_bytes,
            );
        }
        if let Some(folder) = found.hidden {
            let folder = format!("{folder:?}");
            return excess(Resources::Hidden { folder }, 1, 0);
        }
        match found.files > MOST_FILES {
            true => excess(Resources::Files, found.files, MOST_FILES),
            false => None,
        }
    }

    fn look_into(
        &self,
        folder: &Path,
        folders: &mut Vec<PathBuf>,
        found: &mut Found,
    ) -> io::Result<()> {
        let open = match self.open_below(folder) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                self.unlock(folder)?;
                self.open_below(folder)?
            }
            open => open?,
        };
        for entry in fs::read_dir(format!("/proc/self/fd/{}", open.as_raw_fd()))? {
            let entry = entry?;
            // It may be gone by now.
            let Ok(status) = entry.metadata() else {
                continue;
            };
            // What is mounted here belongs to somebody else.
            if status.dev() != self.device {
                continue;
            }
            found.files += 1;
            let bytes = status.blocks() * 512;
            found.bytes += bytes;
            let path = || {
                folder
                    .components()
                    .skip(1)
                    .collect::<PathBuf>()
                    .join(entry.file_name())
            };
            if status.is_dir() {
                folders.push(folder.join(entry.file_name()));
            } else if found.largest.as_ref().is_none_or(|(most, _)| *most < bytes) {
                found.largest = Some((bytes, path()));
            }
            if found.files > MOST_FILES {
                break;
            }
        }
        Ok(())
    }

    fn open_below(&self, folder: &Path) -> io::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        match openat2(&self.folder, folder, how) {
            // It became a link or a file since it was seen: what it holds is found by its name.
            Err(Errno::ELOOP | Errno::ENOTDIR) => Err(io::ErrorKind::NotFound.into()),
            open => Ok(open?),
        }
    }

    /// Gives a folder that its owner may not look into the rights for it.
    fn unlock(&self, folder: &Path) -> io::Result<()> {
        let parent = folder.parent().unwrap_or(Path::new("."));
        let name = folder.file_name().ok_or(io::ErrorKind::PermissionDenied)?;
        let parent = self.open_below(parent)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        let held = openat2(&parent, name, how)?;
        let held = format!("/proc/self/fd/{}", held.as_raw_fd());
        fs::set_permissions(held, Permissions::from_mode(0o700))
    }
}
