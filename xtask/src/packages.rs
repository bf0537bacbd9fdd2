//! The Debian packages that tests need beyond Rust, Python with venv and a C compiler.
//!
//! This list is the only place that names them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A Debian package and the program by which its presence is known.
pub(crate) struct Package {
    /// Name given to `apt-get install`.
    pub(crate) name: &'static str,
    program: &'static str,
    /// What the tests use it for.
    pub(crate) purpose: &'static str,
}

/// Brings `systemd-analyze verify`; systemd need not be running.
pub(crate) const SYSTEMD: Package = Package {
    name: "systemd",
    program: "systemd-analyze",
    purpose: "verifying the units in deploy/systemd",
};

/// NATs and firewalls at hosts in namespaces.
const NFTABLES: Package = Package {
    name: "nftables",
    program: "nft",
    purpose: "sites behind NATs",
};

/// Private networks behind routers, and tunnels between namespaces.
const IPROUTE2: Package = Package {
    name: "iproute2",
    program: "ip",
    purpose: "veth devices",
};

/// Devices that leave checksums and segments to nobody.
const ETHTOOL: Package = Package {
    name: "ethtool",
    program: "ethtool",
    purpose: "switching offloads off",
};

/// Every package that some test needs.
pub(crate) const ALL: &[&Package] = &[&SYSTEMD, &NFTABLES, &IPROUTE2, &ETHTOOL];

/// The packages that `cargo xtask bench mesh` needs.
pub(crate) const BENCH_MESH: &[&Package] = &[
    &Package {
        name: "iperf3",
        program: "iperf3",
        purpose: "load for the mesh",
    },
    &Package {
        name: "iputils-ping",
        program: "ping",
        purpose: "round-trip times",
    },
    &IPROUTE2,
    &ETHTOOL,
];

impl Package {
    /// Whether the package's program is on the path or in a system folder.
    pub(crate) fn is_present(&self) -> bool {
        find_program(self.program).is_some()
    }
}

/// The packages of a list that are not there.
pub(crate) fn missing(packages: &[&'static Package]) -> Vec<&'static Package> {
    packages
        .iter()
        .copied()
        .filter(|package| !package.is_present())
        .collect()
}

/// The commands that install `packages`, or `None` where this user may not.
///
/// The lists are fetched first: a fresh container has none.
pub(crate) fn installation(packages: &[&Package]) -> Option<[Command; 2]> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let apt = find_program("apt-get")?;
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new(&apt);
        command
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    let mut install = apt_get(&["install", "--yes", "--no-install-recommends"]);
    install.args(packages.iter().map(|package| package.name));
    Some([apt_get(&["update"]), install])
}

/// One line that says which packages to install, for what, and how.
pub(crate) fn advice(packages: &[&Package]) -> String {
    let purposes: Vec<_> = packages
        .iter()
        .map(|package| format!("{} ({})", package.name, package.purpose))
        .collect();
    let names: Vec<_> = packages.iter().map(|package| package.name).collect();
    format!(
        "missing: {}; run: sudo apt-get install {}",
        purposes.join(", "),
        names.join(" ")
    )
}

/// Looks for an executable on `PATH`, then in the system folders an ordinary user's path lacks.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_every_package_on_one_line() {
        let absent = Package {
            name: "left-pad",
            program: "no-such-program",
            purpose: "padding",
        };
        assert!(!absent.is_present());
        let advice = advice(&[&SYSTEMD, &absent]);
        assert!(
            advice.contains("apt-get install systemd left-pad"),
            "{advice}"
        );
        assert!(advice.contains("(padding)"), "{advice}");
        assert_eq!(advice.lines().count(), 1);
    }

    #[test]
    fn a_folder_is_no_program() {
        assert!(!is_executable(Path::new("/usr/bin")));
        assert!(find_program("sh").is_some());
    }
}
