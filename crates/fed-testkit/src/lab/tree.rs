//! The file tree of a host: planned before its process exists, as a list of single steps.
//!
//! The root is a tmpfs of the host's own, into which the entries of the machine's root are bound.
//! Thus a directory that the machine lacks can be made for one host without touching the machine.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use super::step::Step;

/// Where the new root is built: a directory that every machine has, and that no bind comes from.
const BUILDING_SITE: &str = "/proc";
/// Holds the content of files that stand in for the machine's.
const OWN_FILES: &str = "/.lab";
/// Names in the machine's root that a host gets afresh. `.lab` is there in a lab inside a host.
const FRESH: [&str; 3] = ["proc", "run", ".lab"];

/// Why a host's file tree cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A path inside the host must be absolute and plain.
    #[error("{}: a path inside a host must be absolute, without `..`", path.display())]
    NotPlain {
        /// The path.
        path: PathBuf,
    },
    /// A path inside the host leads through a symbolic link.
    #[error("{}: leads through the symbolic link {}; give the real path", path.display(), link.display())]
    ThroughLink {
        /// The path.
        path: PathBuf,
        /// The link in it.
        link: PathBuf,
    },
    /// Something on the machine cannot be read.
    #[error("cannot read {} on this machine", path.display())]
    Machine {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What stands at a path of the host.
#[derive(Debug, Clone)]
enum Node {
    /// A directory in a tmpfs of the host's own: entries can be made in it.
    Own,
    /// Something bound from this path of the machine.
    Bound(PathBuf),
}

/// What the caller wants at a path of the host.
#[derive(Debug, Clone)]
enum Mount {
    Private,
    Bind { source: PathBuf, read_only: bool },
    File { content: Vec<u8> },
}

/// The plan of one host's file tree.
#[derive(Debug)]
pub(super) struct Tree {
    steps: Vec<Step>,
    nodes: BTreeMap<PathBuf, Node>,
    mounts: Vec<(PathBuf, Mount)>,
}

impl Tree {
    /// Plans the machine's tree with a private `/run`, `/dev/shm` and `/proc`.
    pub(super) fn new() -> Result<Self, TreeError> {
        let nodes = BTreeMap::from([("/".into(), Node::Bound("/".into()))]);
        let mut tree = Self {
            steps: vec![Step::Detach],
            nodes,
            mounts: Vec::new(),
        };
        tree.mirror(Path::new("/"))?;
        tree.ensure_directory(Path::new(OWN_FILES))?;
        tree.private(Path::new("/run"))?;
        if Path::new("/dev/shm").is_dir() {
            tree.private(Path::new("/dev/shm"))?;
        }
        let proc = Path::new("/proc");
        tree.steps.push(Step::Directory(inside(proc)));
        tree.steps.push(Step::Proc(inside(proc)));
        Ok(tree)
    }

    /// Puts an empty directory of the host's own at `path`.
    pub(super) fn private(&mut self, path: &Path) -> Result<(), TreeError> {
        self.mount(path, Mount::Private)
    }

    /// Shows `source`, a file or directory of the machine, at `target` inside the host.
    pub(super) fn bind(
        &mut self,
        source: &Path,
        target: &Path,
        read_only: bool,
    ) -> Result<(), TreeError> {
        let source = fs::canonicalize(source).map_err(|e| machine(source, e))?;
        self.mount(target, Mount::Bind { source, read_only })
    }

    /// Shows a file with this content at `path`, in place of the machine's.
    pub(super) fn file(&mut self, path: &Path, content: &str) -> Result<(), TreeError> {
        self.mount(
            path,
            Mount::File {
                content: content.as_bytes().to_vec(),
            },
        )
    }

    /// The steps in their order, ending with the change into the new root.
    pub(super) fn into_steps(mut self) -> Vec<Step> {
        self.steps
            .push(Step::Pivot(c_string(Path::new(BUILDING_SITE))));
        self.steps
    }

    fn mount(&mut self, target: &Path, mount: Mount) -> Result<(), TreeError> {
        plain(target)?;
        self.take_mounts(|at| at.starts_with(target));
        let node = match &mount {
            Mount::Private => {
                self.ensure_directory(target)?;
                let machine = self.on_machine(target);
                self.steps.push(tmpfs(target, machine.as_deref()));
                Node::Own
            }
            Mount::Bind { source, read_only } => {
                if source.is_dir() {
                    self.ensure_directory(target)?;
                } else {
                    self.ensure_file(target)?;
                }
                self.steps.push(Step::Bind {
                    source: c_string(source),
                    target: inside(target),
                });
                if *read_only {
                    self.steps.push(Step::ReadOnly(inside(target)));
                }
                Node::Bound(source.clone())
            }
            Mount::File { content } => {
                self.ensure_file(target)?;
                let own = inside(Path::new(&format!("{OWN_FILES}/{}", self.steps.len())));
                self.steps.push(Step::File {
                    target: own.clone(),
                    content: content.clone(),
                });
                self.steps.push(Step::Bind {
                    source: own,
                    target: inside(target),
                });
                Node::Own
            }
        };
        self.nodes.retain(|at, _| !at.starts_with(target));
        self.nodes.insert(target.to_owned(), node);
        self.mounts.push((target.to_owned(), mount));
        Ok(())
    }

    fn take_mounts(&mut self, at: impl Fn(&Path) -> bool) -> Vec<(PathBuf, Mount)> {
        let mounts = std::mem::take(&mut self.mounts);
        let (taken, kept) = mounts.into_iter().partition(|(target, _)| at(target));
        self.mounts = kept;
        taken
    }

    fn ensure_file(&mut self, path: &Path) -> Result<(), TreeError> {
        if self.exists(path)? {
            return Ok(());
        }
        self.ensure_own_parent(path)?;
        self.steps.push(Step::File {
            target: inside(path),
            content: Vec::new(),
        });
        Ok(())
    }

    fn ensure_directory(&mut self, path: &Path) -> Result<(), TreeError> {
        if self.exists(path)? {
            return Ok(());
        }
        self.ensure_own_parent(path)?;
        self.steps.push(Step::Directory(inside(path)));
        self.nodes.insert(path.to_owned(), Node::Own);
        Ok(())
    }

    /// Makes the parent of `path` a directory in which entries can be made.
    fn ensure_own_parent(&mut self, path: &Path) -> Result<(), TreeError> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        self.ensure_directory(parent)?;
        match self.nodes.get(parent) {
            Some(Node::Own) => Ok(()),
            Some(Node::Bound(_)) | None => self.mirror(parent),
        }
    }

    /// Replaces a bound directory by one of the host's own, each entry bound into it. What was
    /// mounted below it is mounted again on top.
    fn mirror(&mut self, directory: &Path) -> Result<(), TreeError> {
        let Some(source) = self.on_machine(directory) else {
            return Ok(());
        };
        let covered = self.take_mounts(|at| at != directory && at.starts_with(directory));
        self.nodes.retain(|at, _| !at.starts_with(directory));
        self.steps.push(tmpfs(directory, Some(&source)));
        self.nodes.insert(directory.to_owned(), Node::Own);
        let entries = fs::read_dir(&source).map_err(|e| machine(&source, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| machine(&source, e))?;
            let fresh = FRESH.iter().any(|name| entry.file_name() == *name);
            if !(fresh && directory == Path::new("/")) {
                self.mirror_entry(&entry.path(), &directory.join(entry.file_name()))?;
            }
        }
        covered
            .into_iter()
            .try_for_each(|(target, mount)| self.mount(&target, mount))
    }

    fn mirror_entry(&mut self, source: &Path, target: &Path) -> Result<(), TreeError> {
        let kind = fs::symlink_metadata(source)
            .map_err(|e| machine(source, e))?
            .file_type();
        if kind.is_symlink() {
            let to = fs::read_link(source).map_err(|e| machine(source, e))?;
            self.steps.push(Step::Link {
                target: inside(target),
                to: c_string(&to),
            });
        } else {
            let place = inside(target);
            self.steps.push(if kind.is_dir() {
                Step::Directory(place)
            } else {
                Step::File {
                    target: place,
                    content: Vec::new(),
                }
            });
            self.steps.push(Step::Bind {
                source: c_string(source),
                target: inside(target),
            });
        }
        self.nodes
            .insert(target.to_owned(), Node::Bound(source.to_owned()));
        Ok(())
    }

    fn exists(&self, path: &Path) -> Result<bool, TreeError> {
        for ancestor in path.ancestors() {
            let link = self
                .on_machine(ancestor)
                .is_some_and(|source| source.is_symlink());
            if link {
                return Err(TreeError::ThroughLink {
                    path: path.to_owned(),
                    link: ancestor.to_owned(),
                });
            }
        }
        let own = matches!(self.nodes.get(path), Some(Node::Own));
        Ok(own || self.on_machine(path).is_some_and(|source| source.exists()))
    }

    /// The machine's path of what stands at `path` inside the host, if it comes from there.
    fn on_machine(&self, path: &Path) -> Option<PathBuf> {
        let (at, node) = path
            .ancestors()
            .find_map(|at| self.nodes.get(at).map(|node| (at, node)))?;
        match node {
            Node::Own => None,
            Node::Bound(source) if at == path => Some(source.clone()),
            Node::Bound(source) => Some(source.join(path.strip_prefix(at).ok()?)),
        }
    }
}

fn plain(path: &Path) -> Result<(), TreeError> {
    let mut components = path.components();
    let absolute = components.next() == Some(Component::RootDir);
    if absolute && components.all(|part| matches!(part, Component::Normal(_))) {
        return Ok(());
    }
    Err(TreeError::NotPlain {
        path: path.to_owned(),
    })
}

fn machine(path: &Path, source: io::Error) -> TreeError {
    TreeError::Machine {
        path: path.to_owned(),
        source,
    }
}

/// A tmpfs with the permissions of `like`, so that a private `/tmp` stays everybody's.
fn tmpfs(target: &Path, like: Option<&Path>) -> Step {
    let like = like.and_then(|path| fs::metadata(path).ok());
    let mode = like.map_or(0o755, |metadata| metadata.mode() & 0o7777);
    let options = CString::new(format!("mode={mode:o}")).expect("digits hold no zero byte");
    Step::Tmpfs {
        target: inside(target),
        options,
    }
}

/// The path of the host's `path` while the new root is being built.
fn inside(path: &Path) -> CString {
    let mut bytes = BUILDING_SITE.as_bytes().to_vec();
    bytes.extend_from_slice(path.as_os_str().as_bytes());
    CString::new(bytes).expect("a path of the file system holds no zero byte")
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path of the file system holds no zero byte")
}
