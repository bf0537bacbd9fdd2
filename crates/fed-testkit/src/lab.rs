//! Hosts on one machine: processes in namespaces, joined by a WAN emulator.

mod builder;
mod device;
mod entry;
mod host;
mod init;
mod step;
mod tree;

pub use builder::{LabBuilder, LabError};
pub use entry::HostUser;
pub use host::{ExecError, Host, exec_in_host};

use crate::wan::Wan;

pub(crate) use device::open_tap;

/// Running hosts and the WAN between them. Dropping it ends every process in every host.
///
/// The hosts end with the process that holds the lab, however that ends: each host's first process
/// reads a pipe that only this process holds open, and the kernel kills the others with the first.
#[derive(Debug)]
pub struct Lab {
    // Before the hosts: the emulator stops before the devices vanish.
    wan: Wan,
    hosts: Vec<Host>,
}

impl Lab {
    /// Starts describing a lab.
    #[must_use]
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// The host of this name.
    ///
    /// # Panics
    /// Where the lab has no such host; [`Self::find_host`] asks.
    #[must_use]
    pub fn host(&self, name: &str) -> &Host {
        match self.find_host(name) {
            Some(host) => host,
            None => panic!("the lab has no host {name:?}; it has {:?}", self.names()),
        }
    }

    /// The host of this name, if there is one.
    #[must_use]
    pub fn find_host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name() == name)
    }

    /// All hosts, in the order in which they were described.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The WAN between the hosts.
    #[must_use]
    pub fn wan(&self) -> &Wan {
        &self.wan
    }

    fn names(&self) -> Vec<&str> {
        self.hosts.iter().map(Host::name).collect()
    }
}
