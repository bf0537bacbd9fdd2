//! The interpreter of scheduler and workers: what it is, and how a process of it is started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use fed_core::PythonEnvironment;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::state::{self, StateError};

/// The package `fed`, as (path below the package, text).
static PACKAGE: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/package.rs"));

/// How long an interpreter may take to say what it is: a cold network file system is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is told of a failure: so many lines, and characters of each.
const LAST_LINES: usize = 3;
const LAST_CHARACTERS: usize = 160;

/// Parts of the system that any interpreter needs, where they exist. Not all of /etc: an agent may
/// run as root, whose workers could then read what is root's.
const SYSTEM: [&str; 23] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
];

/// A Python interpreter as it is configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// Path or name of the executable.
    pub python: String,
    /// Shell commands to run first, such as `module load` or `conda activate`; may be empty.
    #[serde(default)]
    pub prologue: String,
}

/// What an interpreter says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Inspection {
    /// Version and packages.
    pub environment: PythonEnvironment,
    /// Whether the compiled part of fed's own Python package is installed for it.
    #[serde(default)]
    pub is_compiled: bool,
    /// Folders it loads code from.
    pub roots: Vec<PathBuf>,
}

/// Why an interpreter cannot be used.
#[derive(Debug, Error)]
pub enum PythonError {
    /// It could not be started.
    #[error(
        "cannot start Python {python:?}: {source}; name an interpreter that has distributed \
         (`python` in agent.toml, `--python` of `fed up`)"
    )]
    Start {
        /// The interpreter.
        python: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It did not answer.
    #[error("Python {python:?} did not answer within {} s; does its file system respond?", PATIENCE.as_secs())]
    Silent {
        /// The interpreter.
        python: String,
    },
    /// It, or the prologue, failed.
    #[error("{what} failed ({status}): {last_words}; is it a Python interpreter that works?")]
    Failed {
        /// The interpreter, and whether there is a prologue.
        what: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote.
        last_words: String,
    },
    /// It wrote something else than expected.
    #[error("Python {python:?} answered {answer:?}; does the prologue print something?")]
    Garbled {
        /// The interpreter.
        python: String,
        /// The first of what it wrote.
        answer: String,
    },
}

impl Interpreter {
    /// Returns the command that runs this interpreter with `arguments`, after the prologue.
    pub fn command(&self, arguments: &[String]) -> Vec<String> {
        let python = std::iter::once(&self.python).chain(arguments).cloned();
        if self.prologue.trim().is_empty() {
            return python.collect();
        }
        let script = format!("{}\nexec \"$@\"", self.prologue);
        [
            "/bin/sh".to_owned(),
            "-c".to_owned(),
            script,
            "fed".to_owned(),
        ]
        .into_iter()
        .chain(python)
        .collect()
    }

    /// The same interpreter by a path that means the same inside a sandbox: a bare name is replaced
    /// by the interpreter's own path. A path is left alone, since it may be a wrapper's; and so is
    /// a name after a prologue, which may have set up what it means.
    pub fn resolved(&self, inspection: &Inspection) -> Self {
        let mut resolved = self.clone();
        if self.prologue.trim().is_empty() && !self.python.contains('/') {
            resolved
                .python
                .clone_from(&inspection.environment.executable);
        }
        resolved
    }

    /// Asks the interpreter for its version, packages and folders.
    ///
    /// # Errors
    /// See [`PythonError`].
    pub async fn inspect(&self) -> Result<Inspection, PythonError> {
        let python = || self.python.clone();
        let command = self.command(&["-c".to_owned(), include_str!("inspect.py").to_owned()]);
        let child = tokio::process::Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, child)
            .await
            .map_err(|_| PythonError::Silent { python: python() })?
            .map_err(|source| PythonError::Start {
                python: python(),
                source,
            })?;
        if !output.status.success() {
            let what = match self.prologue.trim() {
                "" => format!("{:?}", self.python),
                prologue => format!("{:?} after the prologue {prologue:?}", self.python),
            };
            return Err(PythonError::Failed {
                what,
                status: output.status,
                last_words: last_words(&output.stderr),
            });
        }
        serde_json::from_slice(&output.stdout).map_err(|_| PythonError::Garbled {
            python: python(),
            answer: String::from_utf8_lossy(&output.stdout)
                .chars()
                .take(200)
                .collect(),
        })
    }
}

/// The last lines of what a program wrote, in one: a shell says first what it missed, Python last.
fn last_words(written: &[u8]) -> String {
    let text = String::from_utf8_lossy(written);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut last: Vec<String> = lines
        .rev()
        .take(LAST_LINES)
        .map(|line| match line.char_indices().nth(LAST_CHARACTERS) {
            Some((end, _)) => format!("{} …", &line[..end]),
            None => line.to_owned(),
        })
        .collect();
    last.reverse();
    match last.is_empty() {
        true => "it said nothing".to_owned(),
        false => last.join(" / "),
    }
}

/// Writes the package `fed` below `folder`, which then belongs on `PYTHONPATH`.
///
/// # Errors
/// If a file cannot be written.
pub fn install_package(folder: &Path) -> Result<(), StateError> {
    for (name, text) in PACKAGE {
        let file = folder.join("fed").join(name);
        state::private_folder(file.parent().expect("a joined path has a parent"))?;
        state::write(&file, text.as_bytes())?;
    }
    Ok(())
}

/// The environment of a Python process in a sandbox: nothing of the host's is inherited.
pub fn environment(scratch: &Path, package: &Path) -> BTreeMap<String, String> {
    let path = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
    let text = |path: &Path| path.display().to_string();
    [
        ("HOME", text(scratch)),
        ("LANG", "C.UTF-8".to_owned()),
        ("PATH", path.to_owned()),
        ("PYTHONPATH", text(package)),
        ("PYTHONUNBUFFERED", "1".to_owned()),
        ("TMPDIR", text(&scratch.join("tmp"))),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// What processes in a sandbox may read: the system, the interpreter, and what `named` adds.
pub(crate) fn readable(inspection: &Inspection, named: Vec<PathBuf>) -> Vec<PathBuf> {
    let system = SYSTEM.iter().map(PathBuf::from);
    let mut paths: Vec<PathBuf> = system
        .chain(inspection.roots.iter().cloned())
        .filter(|path| path.exists())
        .chain(named)
        .collect();
    paths.sort();
    paths.dedup();
    // What lies below another of them is visible already, unless a link leads elsewhere.
    let shown = Shown::of(&paths);
    let mut needed: Vec<PathBuf> = paths
        .iter()
        .filter_map(|path| match shown.is_below(path) {
            true => shown.elsewhere(path),
            false => Some(path.clone()),
        })
        .collect();
    needed.sort();
    needed.dedup();
    needed
}

/// True if what a path leads to lies in one of the trees that processes in a sandbox see.
pub(crate) fn shows(readable: &[PathBuf], path: &Path) -> bool {
    let Ok(real) = path.canonicalize() else {
        return false;
    };
    let mut trees = readable.iter().filter_map(|tree| tree.canonicalize().ok());
    trees.any(|tree| real.starts_with(tree))
}

/// As many symbolic links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// Trees that are shown, by the names given and by those that they have without links.
struct Shown(BTreeSet<PathBuf>);

impl Shown {
    fn of(paths: &[PathBuf]) -> Self {
        let named = Self(paths.iter().cloned().collect());
        let tops = named.0.iter().filter(|path| !named.is_below(path));
        let real = tops.clone().filter_map(|path| path.canonicalize().ok());
        Self(tops.cloned().chain(real).collect())
    }

    /// True if a tree above this path is shown.
    fn is_below(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|above| self.0.contains(above))
    }

    /// Follows the links in a path until one leads out of what is shown: to what this returns.
    fn elsewhere(&self, path: &Path) -> Option<PathBuf> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            path = without_first_link(&path)?;
            if !self.0.contains(&path) && !self.is_below(&path) {
                return Some(path);
            }
        }
        None
    }
}

/// A path with the target of its first link in the link's place; nothing if there is no link in it.
fn without_first_link(path: &Path) -> Option<PathBuf> {
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    let (link, target) = above
        .into_iter()
        .find_map(|prefix| Some((prefix, std::fs::read_link(prefix).ok()?)))?;
    let rest = path.strip_prefix(link).expect("it is one of its ancestors");
    let mut found = link.parent().unwrap_or(Path::new("/")).to_owned();
    for part in target.components().chain(rest.components()) {
        match part {
            Component::ParentDir => {
                // Right only where what is left is no link itself.
                found = found.canonicalize().ok()?;
                found.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => found.push(part),
        }
    }
    Some(found)
}

/// Finds the readable path, if any, through which processes in a sandbox would see `secret`.
pub(crate) fn exposed<'a>(secret: &Path, readable: &'a [PathBuf]) -> Option<&'a PathBuf> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let secret = real(secret);
    readable.iter().find(|path| secret.starts_with(real(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter(python: &str, prologue: &str) -> Interpreter {
        Interpreter {
            python: python.into(),
            prologue: prologue.into(),
        }
    }

    #[tokio::test]
    async fn inspects_with_and_without_a_prologue() {
        let plain = interpreter("python3", "").inspect().await.unwrap();
        assert!(plain.environment.version.starts_with("3."));
        assert!(!plain.roots.is_empty());
        let resolved = interpreter("python3", "").resolved(&plain);
        assert!(Path::new(&resolved.python).is_absolute());
        for (python, prologue) in [("/opt/start", ""), ("python3", "module load python")] {
            let given = interpreter(python, prologue);
            assert_eq!(given.resolved(&plain), given);
        }
        let shell = interpreter("$PY", "PY=python3; set -- $PY \"$2\" \"$3\"");
        assert_eq!(
            shell.inspect().await.unwrap().environment,
            plain.environment
        );
    }

    #[tokio::test]
    async fn says_what_is_wrong_with_an_interpreter() {
        let missing = interpreter("/nonexistent/python", "")
            .inspect()
            .await
            .unwrap_err();
        assert!(
            missing.to_string().contains("/nonexistent/python"),
            "{missing}"
        );
        let failing = interpreter("python3", "echo no such module >&2; exit 3")
            .inspect()
            .await;
        assert!(failing.unwrap_err().to_string().contains("no such module"));
        let tool = interpreter("/bin/ls", "").inspect().await.unwrap_err();
        let told = tool.to_string();
        assert!(
            told.starts_with("\"/bin/ls\" failed") && told.len() < 400 && !told.contains('\n'),
            "{told}"
        );
        let chatty = interpreter("python3", "echo welcome")
            .inspect()
            .await
            .unwrap_err();
        assert!(
            chatty.to_string().contains("does the prologue print"),
            "{chatty}"
        );
    }

    #[test]
    fn finds_what_would_be_exposed() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("opt/state");
        std::fs::create_dir_all(&state).unwrap();
        std::os::unix::fs::symlink(folder.path().join("opt"), folder.path().join("link")).unwrap();
        let readable = [folder.path().join("usr"), folder.path().join("link")];
        assert_eq!(exposed(&state, &readable), Some(&readable[1]));
        assert_eq!(exposed(&state, &readable[..1]), None);
    }

    #[test]
    fn a_link_out_of_what_is_shown_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let link = std::os::unix::fs::symlink::<PathBuf, PathBuf>;
        for made in ["data/plain", "volume/deep/set", "far"] {
            std::fs::create_dir_all(root.join(made)).unwrap();
        }
        link(root.join("volume/deep"), root.join("data/near")).unwrap();
        link("../far".into(), root.join("data/relative")).unwrap();
        link("plain".into(), root.join("data/inside")).unwrap();
        link(root.join("data/relative"), root.join("data/twice")).unwrap();
        link(root.join("data/loop"), root.join("data/loop")).unwrap();
        let none = Inspection {
            is_compiled: false,
            environment: PythonEnvironment::default(),
            roots: Vec::new(),
        };
        let shown = |names: &[&str]| {
            let named = names.iter().map(|name| root.join(name)).collect();
            let paths = readable(&none, named).into_iter();
            let own = paths.filter_map(|path| path.strip_prefix(&root).ok().map(Path::to_owned));
            own.map(|path| path.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            shown(&["data", "data/plain", "data/inside", "data/loop"]),
            ["data"]
        );
        assert_eq!(
            shown(&["data", "data/near/set"]),
            ["data", "volume/deep/set"]
        );
        assert_eq!(
            shown(&["data", "data/relative", "data/twice"]),
            ["data", "far"]
        );
        // Named alone, the sandbox follows the link itself.
        assert_eq!(shown(&["data/near"]), ["data/near"]);
        // What the link leads to is as little allowed to hold the agent's state as the link.
        let named = vec![root.join("data"), root.join("data/near")];
        let readable = readable(&none, named);
        assert!(exposed(&root.join("volume/deep/set"), &readable).is_some());
    }

    #[test]
    fn a_link_to_a_folder_above_itself_is_not_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("data/set")).unwrap();
        std::fs::create_dir_all(root.join("other")).unwrap();
        for (target, link) in [
            ("..", "data/set/up"),
            (".", "data/here"),
            ("../other/back", "data/round"),
            ("../data", "other/back"),
        ] {
            std::os::unix::fs::symlink(target, root.join(link)).unwrap();
        }
        let none = Inspection {
            is_compiled: false,
            environment: PythonEnvironment::default(),
            roots: Vec::new(),
        };
        let all_shown = |names: &[&str]| {
            let named: Vec<_> = names.iter().map(|name| root.join(name)).collect();
            let readable = readable(&none, named.clone());
            named.iter().all(|path| shows(&readable, path))
        };
        // Alone, what such a link leads to is nowhere below what is shown.
        assert!(!all_shown(&["data/set/up"]));
        assert!(!all_shown(&["data/here"]));
        assert!(!all_shown(&["data/set/up/set"]));
        for shown in [
            &["data"][..],
            &["data/set/up", "data"],
            &["data/here", "data", "data/set"],
            &["data/set", "other"],
            &["data/round"],
            &["other/back"],
            &["data/set/up/set", "data/set"],
        ] {
            assert!(all_shown(shown), "{shown:?}");
        }
    }

    #[test]
    fn installs_the_whole_package() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("package");
        install_package(&target).unwrap();
        assert!(target.join("fed/__init__.py").is_file());
    }
}
