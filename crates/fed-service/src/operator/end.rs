//! How federations ended that nobody was watching: the last words in the logs of `fed up -d`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fed_core::FederationName;

use super::state::OperatorState;
use crate::state::StateError;

/// Bytes at the end of a log in which the last words stand.
const TAIL: u64 = 64 * 1024;
/// How the lines begin in which a command says why it failed.
const ERROR: &str = "error: ";

/// The end of a detached federation that failed after it was up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederationEnd {
    /// Its name.
    pub name: FederationName,
    /// Why it ended.
    pub reason: String,
    /// When.
    pub at: SystemTime,
    /// Its log.
    pub log: PathBuf,
}

impl fmt::Display for FederationEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "federation {} ended at {}: {} (its log is {})",
            self.name,
            humantime::format_rfc3339_seconds(self.at),
            self.reason,
            self.log.display()
        )
    }
}

impl OperatorState {
    /// How the last detached federation of this name ended, unless it was in order.
    pub fn end_of(&self, name: &FederationName) -> Option<FederationEnd> {
        let log = self.log_of(name);
        // A log that cannot be read tells nothing, as one that is not there.
        let (reason, at) = last_words(&log).ok()??;
        Some(FederationEnd {
            name: name.clone(),
            reason,
            at,
            log,
        })
    }

    /// The ends of all detached federations that are not up again, by name.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn ends(&self) -> Result<Vec<FederationEnd>, StateError> {
        let up = self.federations()?;
        let ended = self.logged()?.into_iter().filter(|name| !up.contains(name));
        Ok(ended.filter_map(|name| self.end_of(&name)).collect())
    }
}

fn last_words(log: &Path) -> io::Result<Option<(String, SystemTime)>> {
    let mut file = File::open(log)?;
    let meta = file.metadata()?;
    file.seek(SeekFrom::Start(meta.len().saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    let at = meta.modified()?;
    // A reason may have several lines, such as a table of versions: nothing is written after it.
    let text = format!("\n{tail}");
    let words = text.rsplit_once(&format!("\n{ERROR}"));
    Ok(words.map(|(_, words)| (words.trim_end().to_owned(), at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_those_that_are_not_up_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let state = OperatorState::open(&folder.path().join("fed")).unwrap();
        let write = |name: &str, text: &str| {
            let name: FederationName = name.parse().unwrap();
            std::fs::write(state.log_of(&name), text).unwrap();
            name
        };
        let early = "x".repeat(usize::try_from(TAIL).unwrap());
        let lost = write(
            "lost",
            &format!("{early}\nerror: old\nINFO\nerror: they differ:\n  dask  1  2\n"),
        );
        write("well", "INFO all is well\n");
        let again = write("again", "error: before\n");
        std::fs::create_dir(state.federation(&again).path()).unwrap();
        let ends = state.ends().unwrap();
        assert_eq!(ends, [state.end_of(&lost).unwrap()]);
        assert_eq!(ends[0].reason, "they differ:\n  dask  1  2");
        assert!(ends[0].to_string().contains("lost.log"), "{}", ends[0]);
    }
}
