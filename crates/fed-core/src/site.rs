//! What a site says about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{PoolName, SiteName};

/// A site's answer to `Describe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteDescription {
    /// The site's own name for itself.
    pub site: SiteName,
    /// Version of the agent.
    pub fed_version: String,
    /// Pools that the site offers, at least one.
    pub pools: Vec<PoolOffer>,
    /// The interpreter of the site's workers.
    pub python: PythonEnvironment,
}

/// A pool as its site offers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolOffer {
    /// The pool's name, unique within a federation.
    pub name: PoolName,
    /// Absolute paths or URL prefixes whose data lies in this pool.
    pub data_roots: Vec<String>,
    /// Workers started when the operator names no number.
    pub default_workers: u32,
    /// Most workers that one federation may have here.
    pub max_workers: u32,
    /// Threads per worker.
    pub threads: u32,
    /// Memory limit per worker, in bytes.
    pub memory_bytes: u64,
}

/// An interpreter and what is installed for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonEnvironment {
    /// Path of the interpreter.
    pub executable: String,
    /// Its version, e.g. `3.11.7`.
    pub version: String,
    /// Installed versions by distribution name. One that is not installed is absent.
    pub packages: BTreeMap<String, String>,
}
