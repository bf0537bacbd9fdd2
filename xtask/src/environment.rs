//! The Python environment of the tests and the demo: `target/venv`, made from `requirements.lock`.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::console;
use crate::process::Log;

/// Interpreters that are tried, best first.
const CANDIDATES: [&str; 4] = ["python3.13", "python3.12", "python3.11", "python3"];
/// Prints the interpreter's path and version when it is recent enough and can make environments.
const PROBE: &str = "import sys, venv, ensurepip\n\
                     assert sys.version_info >= (3, 11)\n\
                     print(sys.executable, sys.version.split()[0])";
/// The pinned requirements; an environment is made anew when they change.
const LOCK: &str = "requirements.lock";
/// The package `fed`.
const PACKAGE: &str = "crates/fed-python";
/// What its compiled part is made of: files, and folders with all that lies below.
const COMPILED_FROM: [&str; 7] = [
    "Cargo.toml",
    "Cargo.lock",
    ".cargo/config.toml",
    "crates/fed-python/Cargo.toml",
    "crates/fed-python/src",
    "crates/fed-place/Cargo.toml",
    "crates/fed-place/src",
];
/// Where its build leaves the compiled part.
const COMPILED: &str = "python/fed/_fed.abi3.so";
/// Its build back end is pinned with the rest, so none is fetched for the build.
const PACKAGE_OPTIONS: [&str; 3] = ["--no-deps", "--no-build-isolation", "--editable"];
/// Time for making an environment, downloads included.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// A virtual environment that holds everything the lock file pins, and the package `fed`.
pub(crate) struct Venv {
    folder: PathBuf,
}

impl Venv {
    /// The environment's interpreter.
    pub(crate) fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// A search path that begins with the environment's programs: a build back end is one.
    fn path(&self) -> Result<OsString> {
        let rest = std::env::var_os("PATH").unwrap_or_default();
        let programs = std::iter::once(self.folder.join("bin"));
        std::env::join_paths(programs.chain(std::env::split_paths(&rest)))
            .with_context(|| format!("{} cannot stand in PATH", self.folder.display()))
    }

    /// A command that runs the module `name` with the environment's interpreter.
    pub(crate) fn module(&self, name: &str) -> Command {
        let mut command = Command::new(self.python());
        command.args(["-m", name]);
        command
    }
}

/// Gives the environment under `root/target/venv`; makes it when it is missing or its lock file or
/// interpreter changed, and installs the package again when its metadata or compiled part changed.
/// Two callers at a time wait for one another.
///
/// # Errors
/// When there is no Python 3.11 or later with venv, or a requirement cannot be installed.
pub(crate) fn ensure(root: &Path) -> Result<Venv> {
    let python = interpreter()?;
    let (requirements, package) = stamps(root, &python)?;
    let _guard = guard(root)?;
    let venv = Venv {
        folder: root.join("target/venv"),
    };
    let requirements_stamp = venv.folder.join("requirements.stamp");
    let package_stamp = venv.folder.join("package.stamp");
    let is_made = is_written(&requirements_stamp, &requirements) && venv.python().exists();
    let is_compiled = root.join(PACKAGE).join(COMPILED).exists();
    if is_made && is_compiled && is_written(&package_stamp, &package) {
        return Ok(venv);
    }
    let mut log = Log::create(&root.join("target/venv.log"), LIMIT)?;
    let mut install = || {
        if !is_made {
            console::progress("       making the Python environment in target/venv (once)");
            make(root, &python, &venv, &mut log)?;
            write(&requirements_stamp, &requirements)?;
        }
        let mut build = pip(&venv);
        build.args(PACKAGE_OPTIONS).arg(root.join(PACKAGE));
        log.run(build.env("PATH", venv.path()?))?;
        write(&package_stamp, &package)
    };
    install().with_context(|| {
        format!(
            "cannot make the Python environment; see {}, which ends:\n  {}",
            log.path().display(),
            log.tail(6).join("\n  ")
        )
    })?;
    Ok(venv)
}

/// Makes the environment from nothing and installs the pinned requirements.
fn make(root: &Path, python: &Interpreter, venv: &Venv, log: &mut Log) -> Result<()> {
    if venv.folder.exists() {
        std::fs::remove_dir_all(&venv.folder)
            .with_context(|| format!("cannot remove {}", venv.folder.display()))?;
    }
    log.run(
        Command::new(&python.path)
            .args(["-m", "venv"])
            .arg(&venv.folder),
    )?;
    log.run(pip(venv).arg("--requirement").arg(root.join(LOCK)))
}

fn pip(venv: &Venv) -> Command {
    let mut command = venv.module("pip");
    command.args(["--disable-pip-version-check", "--no-input", "install"]);
    command
}

/// A stamp is written after what it stands for: without one, that was interrupted.
fn write(stamp: &Path, text: &str) -> Result<()> {
    std::fs::write(stamp, text).with_context(|| format!("cannot write {}", stamp.display()))
}

fn is_written(stamp: &Path, text: &str) -> bool {
    std::fs::read_to_string(stamp).is_ok_and(|written| written == text)
}

/// An interpreter and its version, as [`PROBE`] printed them.
struct Interpreter {
    path: PathBuf,
    description: String,
}

fn interpreter() -> Result<Interpreter> {
    match CANDIDATES.iter().find_map(|candidate| probe(candidate)) {
        Some(found) => Ok(found),
        None => bail!(
            "no Python 3.11 or later with the venv module was found (tried {}); \
             on Debian and Ubuntu: sudo apt-get install python3-venv",
            CANDIDATES.join(", ")
        ),
    }
}

fn probe(candidate: &str) -> Option<Interpreter> {
    let output = Command::new(candidate).args(["-c", PROBE]).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let description = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    let path = description.rsplit_once(' ')?.0.into();
    Some(Interpreter { path, description })
}

/// All that the requirements, and the package, depend on, verbatim: equal text, equal result.
fn stamps(root: &Path, python: &Interpreter) -> Result<(String, String)> {
    let read = |name: &str| {
        std::fs::read_to_string(root.join(name))
            .with_context(|| format!("cannot read {name}, which the Python environment is made of"))
    };
    let requirements = format!(
        "{}\n{}\n{}",
        python.description,
        root.display(),
        read(LOCK)?
    );
    let mut package = read(&format!("{PACKAGE}/pyproject.toml"))?;
    for part in COMPILED_FROM {
        append(&root.join(part), &mut package).with_context(|| {
            format!("cannot read {part}, which the package's compiled part is made of")
        })?;
    }
    Ok((requirements, package))
}

/// Appends the names and texts of a file, or of all below a folder, in order.
fn append(path: &Path, text: &mut String) -> std::io::Result<()> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
        let mut entries = entries.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| append(entry, text));
    }
    text.push_str(&format!("\n# {}\n", path.display()));
    text.push_str(&std::fs::read_to_string(path)?);
    Ok(())
}

/// Holds the environment's lock until dropped.
fn guard(root: &Path) -> Result<Flock<File>> {
    let path = root.join("target/venv.lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("cannot lock {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with an empty lock and a package that needs no build back end.
    fn repository(lock: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join(PACKAGE)).unwrap();
        std::fs::create_dir_all(root.path().join("target")).unwrap();
        std::fs::write(root.path().join(LOCK), lock).unwrap();
        std::fs::write(
            root.path().join(PACKAGE).join("pyproject.toml"),
            "[project]\n",
        )
        .unwrap();
        for part in COMPILED_FROM {
            let path = root.path().join(part);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        root
    }

    #[test]
    fn the_stamps_follow_the_lock_the_interpreter_and_the_package() {
        let root = repository("dask==1\n");
        let python = |description: &str| Interpreter {
            path: "/usr/bin/python3".into(),
            description: description.into(),
        };
        let (requirements, package) = stamps(root.path(), &python("3.11.1")).unwrap();
        let same = stamps(root.path(), &python("3.11.1")).unwrap();
        assert_eq!(same, (requirements.clone(), package.clone()));
        assert_ne!(
            stamps(root.path(), &python("3.11.2")).unwrap().0,
            requirements
        );

        std::fs::write(root.path().join(PACKAGE).join("pyproject.toml"), "[tool]\n").unwrap();
        let edited = stamps(root.path(), &python("3.11.1")).unwrap();
        assert_eq!(edited.0, requirements);
        assert_ne!(edited.1, package);
        std::fs::write(root.path().join("crates/fed-place/Cargo.toml"), "#\n").unwrap();
        let rebuilt = stamps(root.path(), &python("3.11.1")).unwrap();
        assert_ne!(rebuilt.1, edited.1);
        std::fs::write(root.path().join(LOCK), "dask==2\n").unwrap();
        assert_ne!(
            stamps(root.path(), &python("3.11.1")).unwrap().0,
            requirements
        );
    }

    #[test]
    fn a_lock_that_cannot_be_installed_leaves_no_stamp_and_tells_where_to_look() {
        // Refused by pip before it asks any index.
        let root = repository("/no/such/requirement.whl\n");
        let error = format!("{:#}", ensure(root.path()).err().unwrap());
        assert!(
            error.contains("venv.log") && error.contains("/no/such/"),
            "{error}"
        );
        assert!(!root.path().join("target/venv/requirements.stamp").exists());
    }

    #[test]
    fn a_missing_lock_is_named() {
        let root = repository("");
        std::fs::remove_file(root.path().join(LOCK)).unwrap();
        let error = ensure(root.path()).err().unwrap().to_string();
        assert!(error.contains(LOCK), "{error}");
    }
}
