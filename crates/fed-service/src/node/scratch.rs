//! Empties the scratch folder of a sandbox in which no process is left.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::spec::NodeFolder;
use crate::python;
use crate::state::{self, StateError};

/// Removes what the processes inside have written, their logs included, and gives the folder what
/// the next ones need. `shown` are the paths that are visible inside: what the sandbox is mounted
/// on stays, which is the folder, its `tmp`, and in that the places of paths below `/tmp`.
///
/// # Errors
/// When something cannot be removed or made; the rest is gone then.
pub(super) fn empty(folder: &NodeFolder, shown: &[PathBuf]) -> Result<(), StateError> {
    let scratch = folder.scratch();
    let tmp = scratch.join("tmp");
    let mut kept = BTreeSet::from([tmp.clone()]);
    for path in shown.iter().chain([&scratch]) {
        let real = path.canonicalize().ok();
        for path in real.iter().chain([path]) {
            let below = path.strip_prefix("/tmp").unwrap_or(Path::new(""));
            kept.extend(below.ancestors().map(|part| tmp.join(part)));
        }
    }
    // A path that ends in a slash is another one to a set.
    let kept = kept.iter().map(|path| path.components().collect());
    clear(&scratch, &kept.collect())?;
    state::private_folder(&folder.logs())?;
    python::install_package(&folder.package())
}

/// Removes all in a folder but what is kept.
fn clear(folder: &Path, kept: &BTreeSet<PathBuf>) -> Result<(), StateError> {
    let mut cleared = Ok(());
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let done = match entry.file_type() {
            // Nobody inside can put anything else in the place of what is mounted.
            Ok(kind) if kept.contains(&path) && kind.is_dir() => clear(&path, kept),
            Ok(_) if kept.contains(&path) => Ok(()),
            _ => state::remove(&path),
        };
        cleared = cleared.and(done);
    }
    cleared
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn what_was_written_goes_and_what_is_needed_stays() {
        let place = tempfile::tempdir().unwrap();
        let folder = NodeFolder::new(place.path().join("node"));
        let (scratch, kept) = (folder.scratch(), place.path().join("kept"));
        std::fs::create_dir_all(scratch.join("tmp/deep")).unwrap();
        std::fs::create_dir_all(scratch.join("dask/closed/below")).unwrap();
        std::fs::write(&kept, "kept").unwrap();
        for path in ["fill", "tmp/fill", "tmp/deep/fill", "dask/fill"] {
            std::fs::write(scratch.join(path), "x").unwrap();
        }
        let closed = std::fs::Permissions::from_mode(0o0);
        std::fs::set_permissions(scratch.join("dask/closed"), closed).unwrap();
        symlink(place.path(), folder.logs()).unwrap();
        std::fs::create_dir_all(scratch.join("tmp/data/of/site")).unwrap();
        std::fs::write(scratch.join("tmp/data/of/fill"), "x").unwrap();
        let shown = [PathBuf::from("/usr"), PathBuf::from("/tmp/data/of/site")];
        empty(&folder, &shown).unwrap();
        let mut left: Vec<String> = state::entries(&scratch).unwrap();
        left.sort();
        assert_eq!(left, ["logs", "package", "tmp"]);
        assert_eq!(state::entries(&scratch.join("tmp")).unwrap(), ["data"]);
        assert_eq!(
            state::entries(&scratch.join("tmp/data/of")).unwrap(),
            ["site"]
        );
        assert!(folder.package().join("fed/__init__.py").exists());
        assert!(std::fs::symlink_metadata(folder.logs()).unwrap().is_dir());
        assert!(kept.exists());
    }
}
