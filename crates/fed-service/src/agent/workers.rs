//! How a worker of a pool is started, and what it is called.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use fed_core::{MemberId, PoolName, PoolOffer, SiteName};
use fed_sandbox::Allowance;

use crate::node::{NodeFolder, ProcessRequest};
use crate::python::{self, Interpreter};

/// What a worker may hold beyond its memory limit, in bytes: its nanny, and the little that Dask
/// needs to see to its own limit, which it does by ending the worker at 95 % of it.
const HEADROOM_BYTES: u64 = 512 << 20;

/// Everything that is the same for all workers of a federation at this site.
#[derive(Clone, Debug)]
pub(super) struct WorkerKit {
    pub(super) site: SiteName,
    pub(super) address: Ipv6Addr,
    pub(super) interpreter: Interpreter,
    pub(super) folder: NodeFolder,
    pub(super) scheduler: String,
    pub(super) all_pools: Vec<String>,
    /// Processes and threads that a worker may have.
    pub(super) processes: u32,
}

/// The name of the `number`th worker of a site.
pub(super) fn name(pool: &PoolName, member: MemberId, number: u32) -> String {
    format!("{pool}-{}-{number}", member.number())
}

impl WorkerKit {
    /// Describes the process of one worker.
    pub(super) fn worker(&self, name: &str, pool: &PoolOffer) -> ProcessRequest {
        let scratch = self.folder.scratch();
        let arguments = [
            "-m",
            "fed.dask_worker",
            &self.scheduler,
            "--host",
            &format!("[{}]", self.address),
            "--name",
            name,
            "--nthreads",
            &pool.threads.to_string(),
            "--memory-limit",
            &pool.memory_bytes.to_string(),
            // Tasks ask for none of it: the number only has to be there.
            "--resources",
            &format!("{}=1", pool.name.resource()),
            "--local-directory",
            &scratch.join("dask").display().to_string(),
            "--no-dashboard",
        ]
        .map(str::to_owned);
        ProcessRequest {
            name: name.to_owned(),
            argv: self.interpreter.command(&arguments),
            env: self.environment(&pool.name),
            allowance: Some(Allowance {
                memory_bytes: pool.memory_bytes.saturating_add(HEADROOM_BYTES),
                processes: self.processes,
            }),
        }
    }

    fn environment(&self, pool: &PoolName) -> BTreeMap<String, String> {
        let mut environment = python::environment(&self.folder.scratch(), &self.folder.package());
        let pools = serde_json::to_string(&self.all_pools).expect("names are JSON");
        for (name, value) in [
            ("FED_POOL", pool.to_string()),
            ("FED_SITE", self.site.to_string()),
            ("FED_POOLS", pools),
        ] {
            environment.insert(name.to_owned(), value);
        }
        environment
    }
}
