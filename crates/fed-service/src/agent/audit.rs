//! The audit log: a line of JSON for every call, and for every key that is turned away.
//!
//! Lines are only ever appended, each in one write. They hold no key and no content of a call.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use fed_rpc::status::CallError;
use fed_rpc::{Fingerprint, PeerIdentity};
use serde::Serialize;
use tonic::Status;
use tracing::error;

use crate::state::StateError;

/// Name of the file in the agent's state folder.
const FILE: &str = "audit.jsonl";
/// Refused connections that are written within [`SPELL`]: whoever is not let in should not be able
/// to fill the disk.
const REFUSALS: u32 = 100;
const SPELL: Duration = Duration::from_secs(60);

/// A line of the log.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// RFC 3339, UTC.
    time: String,
    peer: Option<SocketAddr>,
    fingerprint: Option<String>,
    /// The operator's name; nothing for a key that is not an operator's.
    operator: Option<&'a str>,
    call: &'a str,
    federation: Option<&'a str>,
    /// `ok`, or the reason of the refusal.
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// Who called what.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) peer: Option<PeerIdentity>,
    pub(super) operator: Option<String>,
    pub(super) call: &'static str,
    pub(super) federation: Option<String>,
}

/// The audit log of one agent.
#[derive(Debug)]
pub(super) struct Audit {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Since when refusals are counted, how many were written, and how many were not.
    spell: (Instant, u32, u32),
    /// Whether the last line could not be written.
    failing: bool,
}

impl Audit {
    /// Opens the log in an agent's state folder, and makes it if there is none.
    pub(super) fn open(state: &Path) -> Result<Self, StateError> {
        let path = state.join(FILE);
        let file = append(&path)?;
        Ok(Self {
            path,
            open: Mutex::new(Open {
                file,
                spell: (Instant::now(), 0, 0),
                failing: false,
            }),
        })
    }

    /// Opens the file again, which may have been moved away.
    pub(super) fn reopen(&self) -> Result<(), StateError> {
        let file = append(&self.path)?;
        self.lock().file = file;
        Ok(())
    }

    /// Notes a call and how it went.
    pub(super) fn call(&self, caller: &Caller, refusal: Option<&Status>) {
        let refusal = refusal.cloned().map(CallError::from);
        let (outcome, message) = match &refusal {
            None => ("ok", None),
            Some(CallError::Refused(refusal)) => {
                (refusal.reason.as_str(), Some(refusal.message.as_str()))
            }
            Some(_) => ("failed", None),
        };
        self.write(&Line {
            time: now(),
            peer: caller.peer.map(|peer| peer.remote),
            fingerprint: caller.peer.map(|peer| peer.fingerprint.to_string()),
            operator: caller.operator.as_deref(),
            call: caller.call,
            federation: caller.federation.as_deref(),
            outcome,
            message,
        });
    }

    /// Notes a key that was turned away in the handshake; `who` is what is known of it.
    pub(super) fn refused(&self, remote: SocketAddr, key: &Fingerprint, who: &str) {
        let skipped = {
            let mut open = self.lock();
            let (since, written, skipped) = &mut open.spell;
            if since.elapsed() >= SPELL {
                let before = *skipped;
                (*since, *written, *skipped) = (Instant::now(), 1, 0);
                before
            } else if *written < REFUSALS {
                *written += 1;
                0
            } else {
                *skipped = skipped.saturating_add(1);
                return;
            }
        };
        let message = match skipped {
            0 => who.to_owned(),
            skipped => format!("{who}; {skipped} refused connections before it were not noted"),
        };
        self.write(&Line {
            time: now(),
            peer: Some(remote),
            fingerprint: Some(key.to_string()),
            operator: None,
            call: "handshake",
            federation: None,
            outcome: "refused",
            message: Some(&message),
        });
    }

    /// Notes what the site itself did, such as the removal of an operator.
    pub(super) fn site(
        &self,
        call: &'static str,
        operator: &str,
        fingerprint: &str,
        message: &str,
    ) {
        self.write(&Line {
            time: now(),
            peer: None,
            fingerprint: Some(fingerprint.to_owned()),
            operator: Some(operator),
            call,
            federation: None,
            outcome: "ok",
            message: Some(message),
        });
    }

    fn write(&self, line: &Line<'_>) {
        let mut text = serde_json::to_vec(line).expect("texts are JSON");
        text.push(b'\n');
        let mut open = self.lock();
        let written = open.file.write_all(&text);
        // The calls go on: a full disk must not keep anybody from ending a federation.
        if let Err(error) = &written
            && !open.failing
        {
            error!(%error, path = %self.path.display(), "the audit log cannot be written");
        }
        open.failing = written.is_err();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn append(path: &Path) -> Result<File, StateError> {
    let mut options = OpenOptions::new();
    let opened = options.append(true).create(true).mode(0o600).open(path);
    let wrong = |source| StateError::Io {
        action: "open the audit log",
        path: path.to_owned(),
        source,
    };
    let file = opened.map_err(wrong)?;
    let mode = file.metadata().map_err(wrong)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StateError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(file)
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

#[cfg(test)]
mod tests {
    use fed_rpc::possession::ChannelBinding;
    use fed_rpc::status::{Reason, Refusal};
    use serde_json::Value;

    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn caller(call: &'static str) -> Caller {
        Caller {
            peer: Some(PeerIdentity {
                remote: "192.0.2.1:4242".parse().unwrap(),
                fingerprint: Fingerprint::from_bytes([7; 32]),
                binding: ChannelBinding::from_bytes([0; 32]),
            }),
            operator: Some("alice@lab".to_owned()),
            call,
            federation: Some("0123456789".to_owned()),
        }
    }

    #[test]
    fn every_call_is_a_line_and_the_file_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        audit.call(&caller("Prepare"), None);
        let refusal = Refusal::new(Reason::Exhausted, "ecmwf allows 3 workers\nand no more");
        audit.call(&caller("Start"), Some(&refusal.into()));
        let path = folder.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let lines = lines(&path);
        assert_eq!(lines.len(), 2);
        for (key, value) in [
            ("peer", "192.0.2.1:4242"),
            ("operator", "alice@lab"),
            ("call", "Start"),
            ("federation", "0123456789"),
            ("outcome", "exhausted"),
            ("message", "ecmwf allows 3 workers\nand no more"),
        ] {
            assert_eq!(lines[1][key], value);
        }
        assert!(
            lines[0]["fingerprint"]
                .as_str()
                .unwrap()
                .starts_with("SHA256:")
        );
        assert_eq!(lines[0]["outcome"], "ok");
        assert!(lines[0]["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn an_earlier_log_is_continued_and_a_moved_one_left() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (
            folder.path().join(FILE),
            folder.path().join("audit.jsonl.1"),
        );
        Audit::open(folder.path())
            .unwrap()
            .call(&caller("Prepare"), None);
        let audit = Audit::open(folder.path()).unwrap();
        audit.call(&caller("Start"), None);
        assert_eq!(lines(&path).len(), 2);
        std::fs::rename(&path, &moved).unwrap();
        audit.call(&caller("Renew"), None);
        audit.reopen().unwrap();
        audit.call(&caller("Leave"), None);
        assert_eq!((lines(&moved).len(), lines(&path).len()), (3, 1));
    }

    #[test]
    fn strangers_cannot_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::open(folder.path()).unwrap();
        let remote = "192.0.2.1:4242".parse().unwrap();
        for _ in 0..10 * REFUSALS {
            audit.refused(remote, &Fingerprint::from_bytes([1; 32]), "stranger");
        }
        audit.call(&caller("Renew"), None);
        let written = u32::try_from(lines(&folder.path().join(FILE)).len()).unwrap();
        assert_eq!(written, REFUSALS + 1);
    }

    #[test]
    fn a_log_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, "").unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&path, open).unwrap();
        let error = Audit::open(folder.path()).unwrap_err();
        assert!(
            matches!(error, StateError::Open { mode: 0o644, .. }),
            "{error}"
        );
    }
}
