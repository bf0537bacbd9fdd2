use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, pivot_root};

use crate::failure::{At, Failure, Step};
use crate::limits::{Quotas, limit_numbers};
use crate::mount::{move_mount, open_tree, set_attributes};
use crate::plan::{Access, Entry, OwnFile, Plan};

/// Folder of the new root for files on their way to the place that they are mounted on.
const STAGING: &str = ".fed";

/// Whether the current user namespace is the sandbox's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserNamespace {
    Own,
    Hosts,
}

/// Makes the planned file system and changes into it; nothing else of the host's stays visible.
/// To be called in a new mount namespace, by PID 1.
pub(crate) fn enter(
    plan: &Plan,
    users: UserNamespace,
    quotas: Option<&Quotas>,
) -> Result<(), Failure> {
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).at(Step::Private, "/")?;
    // All trees before the new root, which hides the host's scratch folder.
    let trees = open_trees(plan)?;
    let root = Root {
        path: plan.scratch.clone(),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("fed"),
        &root.path,
        Some("tmpfs"),
        flags,
        Some("mode=0755,size=1m"),
    )
    .at(Step::Root, &root.path)?;
    for (path, tree) in trees {
        root.place(path, tree).at(Step::Place, path)?;
    }
    for file in &plan.files {
        root.add_file(plan, file).at(Step::Place, &file.path)?;
    }
    fs::remove_dir_all(root.inside(Path::new(STAGING)))
        .or_else(absent)
        .at(Step::Root, "/")?;
    root.add_devices(quotas).at(Step::Place, "/dev")?;
    root.add_proc(users, quotas)?;
    root.pivot().at(Step::Pivot, &root.path)?;
    seal(Path::new("/")).at(Step::ReadOnly, "/")
}

enum Piece<'a> {
    Mount(OwnedFd),
    Link(&'a Path),
}

fn open_trees(plan: &Plan) -> Result<Vec<(&Path, Piece<'_>)>, Failure> {
    let mut trees = Vec::new();
    for (path, entry) in &plan.entries {
        let piece = match entry {
            Entry::Link { target } => Piece::Link(target),
            Entry::Tree { source, access } => {
                let tree = open_tree(source).at(Step::Bind, source)?;
                let attributes = match access {
                    Access::ReadOnly => libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID,
                    Access::ReadWrite => libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID,
                    Access::Device => libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_NOSUID,
                };
                set_attributes(tree.as_fd(), attributes, true).at(Step::ReadOnly, source)?;
                Piece::Mount(tree)
            }
        };
        trees.push((path.as_path(), piece));
    }
    Ok(trees)
}

struct Root {
    path: PathBuf,
}

impl Root {
    fn inside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn place(&self, path: &Path, piece: Piece<'_>) -> io::Result<()> {
        let place = self.inside(path);
        match piece {
            Piece::Link(target) => {
                make_parents(&place)?;
                match symlink(target, &place) {
                    // In a tree that shows it already.
                    Err(_) if fs::read_link(&place).is_ok_and(|found| found == target) => Ok(()),
                    made => made,
                }
            }
            Piece::Mount(tree) => {
                let status = nix::sys::stat::fstat(&tree)?;
                if status.st_mode & libc::S_IFMT == libc::S_IFDIR {
                    make_folders(&place)?;
                } else if let Err(error) = fs::symlink_metadata(&place) {
                    absent(error)?;
                    write_new(&place, "")?;
                }
                Ok(move_mount(tree.as_fd(), &place)?)
            }
        }
    }

    fn add_file(&self, plan: &Plan, file: &OwnFile) -> io::Result<()> {
        let place = self.inside(&file.path);
        if fs::symlink_metadata(&place).is_ok() {
            return if file.overrides {
                self.cover(file, &place)
            } else {
                Ok(())
            };
        }
        if plan.covers(&file.path) {
            // A tree of the host that lacks the file cannot get it. Without a resolv.conf
            // resolvers ask nobody outside; without hosts, names would stay unknown.
            let needed = !file.content.is_empty();
            return if needed {
                Err(io::Error::from(Errno::ENOENT))
            } else {
                Ok(())
            };
        }
        write_new(&place, &file.content)
    }

    /// Mounts a file of the sandbox's own over one that a tree of the host shows.
    fn cover(&self, file: &OwnFile, place: &Path) -> io::Result<()> {
        let name = file.path.file_name().unwrap_or(file.path.as_os_str());
        let staged = self.path.join(STAGING).join(name);
        write_new(&staged, &file.content)?;
        let tree = open_tree(&staged)?;
        set_attributes(tree.as_fd(), libc::MOUNT_ATTR_RDONLY, false)?;
        Ok(move_mount(tree.as_fd(), place)?)
    }

    fn add_devices(&self, quotas: Option<&Quotas>) -> io::Result<()> {
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
        ] {
            symlink(target, self.inside(Path::new("/dev")).join(name))?;
        }
        let shared = self.inside(Path::new("/dev/shm"));
        make_folders(&shared)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        // Rounded up: a size of 0 is none.
        let size = quotas.map(|quotas| quotas.shared_memory_bytes.max(1));
        let size = size.map_or_else(String::new, |bytes| format!(",size={bytes}"));
        let options = format!("mode=1777{size}");
        Ok(mount(
            Some("fed"),
            &shared,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )?)
    }

    /// Mounts the PID namespace's own `/proc`: read-only, because what capabilities do not guard
    /// in it (`/proc/sys` for user 0) would be the host's.
    fn add_proc(&self, users: UserNamespace, quotas: Option<&Quotas>) -> Result<(), Failure> {
        let place = self.inside(Path::new("/proc"));
        make_folders(&place).at(Step::Place, "/proc")?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), &place, Some("proc"), flags, None::<&str>).at(Step::Proc, "/proc")?;
        if users == UserNamespace::Own {
            // A nested user namespace would give its maker capabilities again. The limit is this
            // namespace's own, so the host's stays as it is.
            let limit = place.join("sys/user/max_user_namespaces");
            fs::write(&limit, "0\n").at(Step::Capabilities, limit)?;
        }
        if let Some(quotas) = quotas {
            limit_numbers(&place, quotas)?;
        }
        seal(&place).at(Step::ReadOnly, "/proc")
    }

    fn pivot(&self) -> nix::Result<()> {
        chdir(&self.path)?;
        // The old root lands on top of the new one, where the next call takes it away.
        pivot_root(".", ".")?;
        umount2(".", MntFlags::MNT_DETACH)?;
        chdir("/")
    }
}

/// Makes the mount at a path read-only, without those below it.
fn seal(path: &Path) -> nix::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = open(path, flags, Mode::empty())?;
    set_attributes(folder.as_fd(), libc::MOUNT_ATTR_RDONLY, false)
}

fn make_folders(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

fn make_parents(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), make_folders)
}

fn write_new(path: &Path, content: &str) -> io::Result<()> {
    make_parents(path)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(content.as_bytes())
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}
