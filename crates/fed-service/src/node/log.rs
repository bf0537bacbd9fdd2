//! Reads the logs of a sandbox from outside.
//!
//! They lie where the processes inside may write, and so may put a link, a pipe or a huge file in
//! the place of a log: nothing of that is followed, waited for or read whole.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::spec::NodeFolder;
use crate::state;

/// Most bytes of one log that are read, from its end.
const LIMIT: u64 = 256 << 10;
/// Most processes whose logs are listed.
const MOST: usize = 1024;

/// The last `count` lines of a process's log; 0 asks for all that is read of it. Empty if there is
/// no log.
pub(crate) fn of_process(folder: &NodeFolder, name: &str, count: usize) -> Vec<String> {
    let lines = open_inside(folder, name).and_then(|file| tail(file, count));
    lines.unwrap_or_default()
}

/// The last `count` lines of the node's own log, which lies outside of the sandbox.
pub(crate) fn of_node(folder: &NodeFolder, count: usize) -> Vec<String> {
    let lines = File::open(folder.log()).and_then(|file| tail(file, count));
    lines.unwrap_or_default()
}

/// Names of the processes that have logs, sorted.
pub(crate) fn names(folder: &NodeFolder) -> Vec<String> {
    let entries = state::entries(&folder.logs()).unwrap_or_default();
    let names = entries
        .iter()
        .filter_map(|entry| entry.strip_suffix(".log"));
    names.map(str::to_owned).take(MOST).collect()
}

fn open_inside(folder: &NodeFolder, name: &str) -> io::Result<File> {
    // The scratch folder itself is a mount inside, which nobody there can replace.
    let scratch = File::options()
        .read(true)
        .custom_flags(OFlag::O_DIRECTORY.bits())
        .open(folder.scratch())?;
    let logs = open_at(&scratch, Path::new("logs"), OFlag::O_DIRECTORY)?;
    let file = open_at(&logs, Path::new(&format!("{name}.log")), OFlag::O_NONBLOCK)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a plain file",
        ))
    }
}

fn open_at(folder: impl AsFd, name: &Path, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(folder, name, flags, Mode::empty())?))
}

/// The last `count` lines of a log; 0 asks for all that is read of it.
pub(super) fn tail(mut file: File, count: usize) -> io::Result<Vec<String>> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(LIMIT);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // What is cut off in front is not a line.
    let lines: Vec<&str> = text.lines().skip(usize::from(start > 0)).collect();
    let skip = if count == 0 {
        0
    } else {
        lines.len().saturating_sub(count)
    };
    Ok(lines[skip..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn reads_the_end_and_nothing_that_is_planted() {
        let place = tempfile::tempdir().unwrap();
        let folder = NodeFolder::new(place.path().join("node"));
        std::fs::create_dir_all(folder.logs()).unwrap();
        std::fs::write(place.path().join("secret"), "secret\n").unwrap();
        std::fs::write(folder.process_log("worker"), "a\nb\nc\n").unwrap();
        symlink(place.path().join("secret"), folder.process_log("link")).unwrap();
        mkfifo(&folder.process_log("pipe"), Mode::S_IRWXU).unwrap();
        std::fs::write(folder.process_log("long"), "0123456789\n".repeat(100_000)).unwrap();
        assert_eq!(of_process(&folder, "worker", 2), ["b", "c"]);
        assert_eq!(of_process(&folder, "worker", 0), ["a", "b", "c"]);
        assert!(of_process(&folder, "link", 0).is_empty());
        assert!(of_process(&folder, "pipe", 0).is_empty());
        assert!(of_process(&folder, "none", 0).is_empty());
        let long = of_process(&folder, "long", 0);
        assert!(long.len() < 30_000 && long.iter().all(|line| line == "0123456789"));
        assert_eq!(names(&folder), ["link", "long", "pipe", "worker"]);
        std::fs::rename(folder.logs(), place.path().join("elsewhere")).unwrap();
        symlink(place.path().join("elsewhere"), folder.logs()).unwrap();
        assert!(of_process(&folder, "worker", 0).is_empty());
    }
}
