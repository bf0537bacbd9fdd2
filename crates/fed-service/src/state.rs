//! Private folders and files: what fed keeps between runs.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use thiserror::Error;

/// Why a file of the state folder could not be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// The system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}:{line}: {problem}; mend the file, or move it away and begin anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// Others could read what should be private.
    #[error("{path} can be read by other users (mode {mode:o}); run `chmod go-rwx {path}` first")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl StateError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Makes a folder (and those above it) that only this user can enter.
///
/// # Errors
/// [`StateError::Open`] if it exists and others can enter it.
pub fn private_folder(path: &Path) -> Result<(), StateError> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(StateError::io("make the folder", path))?;
    let metadata = std::fs::metadata(path).map_err(StateError::io("look at", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(StateError::Open {
            path: path.to_owned(),
            mode,
        })
    }
}

/// Writes a private file as a whole: a reader sees the old or the new one, never a part.
///
/// # Errors
/// [`StateError::Io`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let new = path.with_added_extension(format!("new-{}", std::process::id()));
    let written = (|| {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    if written.is_err() {
        // As when the disk is full: a part of it is of no use to anybody.
        let _ = std::fs::remove_file(&new);
    }
    written.map_err(StateError::io("write", path))
}

/// Writes a value as JSON, as [`write`] does.
///
/// # Errors
/// [`StateError::Io`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| StateError::io("write", path)(io::Error::from(error)))?;
    text.push(b'\n');
    write(path, &text)
}

/// Reads a JSON file; nothing if there is none.
///
/// # Errors
/// [`StateError::Io`] and [`StateError::Damaged`].
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StateError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateError::io("read", path)(error)),
    };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|error| StateError::Damaged {
        path: path.to_owned(),
        line: error.line().max(1),
        problem: match error.classify() {
            Category::Eof => "it ends too early",
            Category::Syntax => "this is not JSON",
            Category::Data | Category::Io => "this is not what fed writes there",
        },
    })
}

/// Names of the entries of a folder, sorted; none if the folder does not exist.
///
/// # Errors
/// [`StateError::Io`].
pub fn entries(path: &Path) -> Result<Vec<String>, StateError> {
    let listing = match std::fs::read_dir(path) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StateError::io("list", path)(error)),
    };
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(StateError::io("list", path))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Removes a file or a folder with all in it, also folders that a task has closed to itself. It is
/// no error if there is none.
///
/// # Errors
/// [`StateError::Io`].
pub fn remove(path: &Path) -> Result<(), StateError> {
    let removed = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => remove_tree(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StateError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a folder with all in it. However deep a task has nested its folders, no more than two
/// levels are entered: what lies further down is moved up first. Links are not followed.
fn remove_tree(root: &Path) -> io::Result<()> {
    let mut moved = 0_u64;
    loop {
        let folders = remove_files(root)?;
        if folders.is_empty() {
            return gone(std::fs::remove_dir(root));
        }
        for folder in folders {
            for deeper in remove_files(&folder)? {
                open_folder(&deeper)?;
                move_up(&deeper, root, &mut moved)?;
            }
            gone(std::fs::remove_dir(&folder))?;
        }
    }
}

/// Moves a folder up to `root`, by a name that none there has.
fn move_up(folder: &Path, root: &Path, number: &mut u64) -> io::Result<()> {
    loop {
        *number += 1;
        match std::fs::rename(folder, root.join(format!(".removed-{number}"))) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            moved => return gone(moved),
        }
    }
}

/// Removes what is no folder from one; returns the folders in it.
fn remove_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    open_folder(folder)?;
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.path());
        } else {
            gone(std::fs::remove_file(entry.path()))?;
        }
    }
    Ok(folders)
}

/// Opens a folder to its owner, which a task may have closed to itself.
fn open_folder(folder: &Path) -> io::Result<()> {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

/// Somebody else may have removed it just before.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A lock file that one process holds at a time, and that is gone when nobody holds it. The system
/// lets go of it when the process ends, however it ends.
///
/// It is a lock of the open file (`F_OFD_SETLK`): unlike those of `flock`, one can ask whether it is
/// held without getting in the way of somebody who takes it at that moment.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock, and waits for whoever holds it.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn take(path: &Path) -> Result<Self, StateError> {
        let taken = Self::acquire(path, true)?;
        Ok(taken.expect("a lock that is waited for is taken in the end"))
    }

    /// Takes the lock, unless somebody holds it.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn try_take(path: &Path) -> Result<Option<Self>, StateError> {
        Self::acquire(path, false)
    }

    /// True while somebody holds the lock.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn is_held(path: &Path) -> Result<bool, StateError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(StateError::io("open", path)(error)),
        };
        let mut held = whole_file();
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut held))
            .map_err(|errno| StateError::io("ask for the lock", path)(errno.into()))?;
        Ok(i32::from(held.l_type) != libc::F_UNLCK)
    }

    /// The process that holds the lock, if somebody does and has said who they are.
    pub fn holder(path: &Path) -> Option<u32> {
        let text = std::fs::read_to_string(path).ok()?;
        let holder = text.parse().ok()?;
        Self::is_held(path).ok()?.then_some(holder)
    }

    fn acquire(path: &Path, wait: bool) -> Result<Option<Self>, StateError> {
        let mut options = std::fs::OpenOptions::new();
        let options = options.read(true).write(true).create(true).mode(0o600);
        let wanted = whole_file();
        loop {
            let file = options.open(path).map_err(StateError::io("open", path))?;
            let how = match wait {
                true => FcntlArg::F_OFD_SETLKW(&wanted),
                false => FcntlArg::F_OFD_SETLK(&wanted),
            };
            match fcntl(&file, how) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(StateError::io("lock", path)(errno.into())),
            }
            // Whoever held it before may have removed the file meanwhile: then this is another.
            let held = file.metadata().map_err(StateError::io("look at", path))?;
            let there = std::fs::metadata(path);
            if there.is_ok_and(|there| there.ino() == held.ino() && there.dev() == held.dev()) {
                // It is held without a name too, as when the disk is full.
                let name = std::process::id().to_string();
                let _ = file
                    .set_len(0)
                    .and_then(|()| (&file).write_all(name.as_bytes()));
                return Ok(Some(Self {
                    path: path.to_owned(),
                    _file: file,
                }));
            }
        }
    }
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).expect("it is 1"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("it is 0"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held, so that nobody else's file is removed. One that is left does no
        // harm: it is not locked.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_removed_however_deep() {
        use nix::fcntl::{OFlag, open, openat};
        use nix::sys::stat::{Mode, mkdirat};
        let place = tempfile::tempdir().unwrap();
        let (root, kept) = (place.path().join("root"), place.path().join("kept"));
        std::fs::create_dir_all(root.join("wide/a")).unwrap();
        std::fs::create_dir_all(root.join("wide/b")).unwrap();
        std::fs::create_dir_all(root.join(".removed-2/of/somebody")).unwrap();
        std::fs::write(&kept, "x").unwrap();
        std::os::unix::fs::symlink(place.path(), root.join("wide/link")).unwrap();
        // Far beyond the longest path and the number of open files.
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut folder = open(&root, flags, Mode::empty()).unwrap();
        for _ in 0..5000 {
            mkdirat(&folder, "deep", Mode::S_IRWXU).unwrap();
            folder = openat(&folder, "deep", flags, Mode::empty()).unwrap();
        }
        mkdirat(&folder, "closed", Mode::empty()).unwrap();
        drop(folder);
        remove(&root).unwrap();
        assert!(!root.exists() && kept.exists());
    }

    #[test]
    fn a_lock_has_one_holder_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        assert!(!Lock::is_held(&path).unwrap());
        let held = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        assert!(Lock::is_held(&path).unwrap());
        assert_eq!(Lock::holder(&path), Some(std::process::id()));
        drop(held);
        assert!(!path.exists());
        // A file without a holder, as a killed process leaves it, is no lock.
        std::fs::write(&path, "").unwrap();
        assert!(!Lock::is_held(&path).unwrap());
    }

    #[test]
    fn asking_does_not_get_in_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.lock");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    Lock::is_held(&path).unwrap();
                }
            });
            let taken = (0..500).all(|_| Lock::try_take(&path).is_ok_and(|lock| lock.is_some()));
            done.store(true, std::sync::atomic::Ordering::SeqCst);
            assert!(taken);
        });
    }

    #[test]
    fn of_many_one_at_a_time_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let (path, inside) = (
            folder.path().join("x.lock"),
            std::sync::atomic::AtomicU32::new(0),
        );
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _held = Lock::take(&path).unwrap();
                        let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(others, 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn keeps_private_what_it_writes() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state/fed");
        private_folder(&state).unwrap();
        let file = state.join("value.json");
        write_json(&file, &[1, 2, 3]).unwrap();
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(read_json::<Vec<u32>>(&file).unwrap(), Some(vec![1, 2, 3]));
        assert_eq!(entries(&state).unwrap(), ["value.json"]);
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            private_folder(&state),
            Err(StateError::Open { mode: 0o755, .. })
        ));
        remove(&state).unwrap();
        remove(&state).unwrap();
        assert_eq!(read_json::<u32>(&file).unwrap(), None);
    }

    #[test]
    fn says_which_file_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.json");
        write(&file, b"[1,").unwrap();
        let error = read_json::<Vec<u32>>(&file).unwrap_err().to_string();
        assert!(
            error.contains("x.json:1: it ends too early; mend the file"),
            "{error}"
        );
    }
}
