//! Private folders and files: what fed keeps between runs.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
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
    #[error("{path} is damaged ({source}); move it away and try again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        source: serde_json::Error,
    },
    /// Others could read what should be private.
    #[error("{path} can be read by other users (mode {mode:o}); run `chmod 700 {path}` first")]
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
    parsed.map(Some).map_err(|source| StateError::Damaged {
        path: path.to_owned(),
        source,
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
        Ok(metadata) if metadata.is_dir() => match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                open_folders(path).and_then(|()| std::fs::remove_dir_all(path))
            }
            removed => removed,
        },
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

/// Opens every folder of a tree to its owner. Links are not followed.
fn open_folders(folder: &Path) -> io::Result<()> {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        write(&file, b"{").unwrap();
        let error = read_json::<u32>(&file).unwrap_err().to_string();
        assert!(error.contains("x.json is damaged"), "{error}");
    }
}
