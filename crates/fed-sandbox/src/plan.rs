use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::failure::{At, Failure, Step};
use crate::spec::SandboxSpec;

/// As many symbolic links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// Device nodes that every program may count on.
const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

/// What a visible path allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadOnly,
    ReadWrite,
    Device,
}

/// Something to be made in the sandbox's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The file or folder `source` of the host, with all that is mounted below it.
    Tree { source: PathBuf, access: Access },
    /// A symbolic link.
    Link { target: PathBuf },
}

/// A file that the sandbox has its own version of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnFile {
    pub(crate) path: PathBuf,
    pub(crate) content: String,
    /// It hides the host's file of that name; otherwise the host's, where visible, stays.
    pub(crate) overrides: bool,
}

/// The sandbox's file system, found out before anything is changed.
#[derive(Debug)]
pub(crate) struct Plan {
    /// By path inside, so that a folder comes before what lies in it.
    pub(crate) entries: BTreeMap<PathBuf, Entry>,
    pub(crate) files: Vec<OwnFile>,
    /// The scratch folder, free of symbolic links.
    pub(crate) scratch: PathBuf,
}

impl Plan {
    /// Finds all that the specification shows, and makes the scratch folder's `tmp`.
    pub(crate) fn new(spec: &SandboxSpec) -> Result<Self, Failure> {
        let mut plan = Self {
            entries: BTreeMap::new(),
            files: Vec::new(),
            scratch: PathBuf::new(),
        };
        for device in DEVICES {
            plan.show(Path::new(device), Access::Device)?;
        }
        for path in &spec.read_only {
            refuse_special(path)?;
            plan.show(path, Access::ReadOnly)?;
        }
        plan.scratch = plan.show(&spec.scratch, Access::ReadWrite)?;
        refuse_special(&plan.scratch)?;
        plan.add_tmp()?;
        plan.add_files(spec)?;
        Ok(plan)
    }

    /// Tells whether a path lies in a tree that is shown.
    pub(crate) fn covers(&self, path: &Path) -> bool {
        path.ancestors()
            .any(|above| matches!(self.entries.get(above), Some(Entry::Tree { .. })))
    }

    fn show(&mut self, path: &Path, access: Access) -> Result<PathBuf, Failure> {
        let real = self.resolve(path)?;
        fs::symlink_metadata(&real).at(Step::Find, path)?;
        self.entries.insert(
            real.clone(),
            Entry::Tree {
                source: real.clone(),
                access,
            },
        );
        Ok(real)
    }

    fn add_tmp(&mut self) -> Result<(), Failure> {
        let source = self.scratch.join("tmp");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&source)
            .at(Step::Find, &source)?;
        let tree = Entry::Tree {
            source,
            access: Access::ReadWrite,
        };
        self.entries.entry(PathBuf::from("/tmp")).or_insert(tree);
        Ok(())
    }

    /// Follows a path of the host to a file or folder, and notes every symbolic link on the way.
    /// The last component may be missing.
    fn resolve(&mut self, path: &Path) -> Result<PathBuf, Failure> {
        if !path.is_absolute() {
            return Err(Failure::new(Step::Spec, path, Errno::EINVAL));
        }
        let mut real = PathBuf::from("/");
        let mut rest = reversed(path);
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                real.pop();
                continue;
            }
            let next = real.join(part);
            match fs::read_link(&next) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Failure::new(Step::Find, path, Errno::ELOOP));
                    }
                    if target.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    rest.extend(reversed(&target));
                    self.entries.entry(next).or_insert(Entry::Link { target });
                }
                Err(error) if is_no_link(&error) || rest.is_empty() => real = next,
                Err(error) => return Err(Failure::io(Step::Find, path, &error)),
            }
        }
        Ok(real)
    }

    fn add_files(&mut self, spec: &SandboxSpec) -> Result<(), Failure> {
        let etc = self.covers(Path::new("/etc"));
        for (path, content) in [
            ("/etc/hosts", hosts_file(spec)),
            ("/etc/resolv.conf", String::new()),
        ] {
            // Where the host's /etc is shown, its links are too, and the file is where they lead.
            let path = if etc {
                self.resolve(Path::new(path))?
            } else {
                PathBuf::from(path)
            };
            self.files.push(OwnFile {
                path,
                content,
                overrides: true,
            });
        }
        if !etc {
            for (path, content) in [
                ("/etc/passwd", passwd_file(&self.scratch)),
                ("/etc/group", group_file()),
                ("/etc/nsswitch.conf", "hosts: files\n".to_owned()),
            ] {
                self.files.push(OwnFile {
                    path: path.into(),
                    content,
                    overrides: false,
                });
            }
        }
        Ok(())
    }
}

/// The file is there but is no symbolic link.
fn is_no_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EINVAL as i32)
}

/// A path's components without the root and `.`, last first.
fn reversed(path: &Path) -> Vec<OsString> {
    let kept = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components()
        .rev()
        .filter(kept)
        .map(|part| part.as_os_str().to_owned())
        .collect()
}

/// The whole host, and what the sandbox has of its own, cannot be shown.
fn refuse_special(path: &Path) -> Result<(), Failure> {
    let own = path == Path::new("/") || path == Path::new("/dev") || path.starts_with("/proc");
    if own {
        Err(Failure::new(Step::Spec, path, Errno::EINVAL))
    } else {
        Ok(())
    }
}

fn hosts_file(spec: &SandboxSpec) -> String {
    let mut file = String::from("127.0.0.1 localhost\n::1 localhost\n");
    if !spec.hosts.iter().any(|(_, name)| *name == spec.hostname) {
        file.push_str(&format!("{} {}\n", spec.tun.address, spec.hostname));
    }
    for (address, name) in &spec.hosts {
        file.push_str(&format!("{address} {name}\n"));
    }
    file
}

fn passwd_file(scratch: &Path) -> String {
    let (uid, gid) = (nix::unistd::Uid::effective(), nix::unistd::Gid::effective());
    let name = if uid.is_root() { "root" } else { "fed" };
    format!("{name}:x:{uid}:{gid}::{}:/bin/sh\n", scratch.display())
}

fn group_file() -> String {
    let gid = nix::unistd::Gid::effective();
    let name = if gid.as_raw() == 0 { "root" } else { "fed" };
    format!("{name}:x:{gid}:\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn empty() -> Plan {
        Plan {
            entries: BTreeMap::new(),
            files: Vec::new(),
            scratch: PathBuf::new(),
        }
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        (folder, path)
    }

    #[test]
    fn links_on_the_way_are_made_again() {
        let (_folder, path) = folder();
        fs::create_dir_all(path.join("real/data")).unwrap();
        fs::create_dir(path.join("links")).unwrap();
        symlink("../real", path.join("links/near")).unwrap();
        symlink(path.join("links/near"), path.join("far")).unwrap();
        let mut plan = empty();
        let real = plan
            .show(&path.join("far/./data"), Access::ReadOnly)
            .unwrap();
        assert_eq!(real, path.join("real/data"));
        let tree = Entry::Tree {
            source: real.clone(),
            access: Access::ReadOnly,
        };
        let wanted = BTreeMap::from([
            (real, tree),
            (
                path.join("links/near"),
                Entry::Link {
                    target: "../real".into(),
                },
            ),
            (
                path.join("far"),
                Entry::Link {
                    target: path.join("links/near"),
                },
            ),
        ]);
        assert_eq!(plan.entries, wanted);
        assert!(plan.covers(&path.join("real/data/deep")));
        assert!(!plan.covers(&path.join("real")));
    }

    #[test]
    fn a_loop_of_links_is_refused() {
        let (_folder, path) = folder();
        symlink("b", path.join("a")).unwrap();
        symlink("a", path.join("b")).unwrap();
        let failure = empty().show(&path.join("a"), Access::ReadOnly).unwrap_err();
        assert_eq!(
            (failure.step, failure.errno),
            (Step::Find, Errno::ELOOP as i32)
        );
        assert_eq!(failure.subject, path.join("a"));
    }

    #[test]
    fn only_the_last_component_may_be_missing() {
        let (_folder, path) = folder();
        symlink("absent", path.join("dangling")).unwrap();
        let found = empty().resolve(&path.join("dangling")).unwrap();
        assert_eq!(found, path.join("absent"));
        let failure = empty().resolve(&path.join("dangling/below")).unwrap_err();
        assert_eq!(failure.errno, Errno::ENOENT as i32);
        assert!(
            empty()
                .show(&path.join("dangling"), Access::ReadOnly)
                .is_err()
        );
    }
}
