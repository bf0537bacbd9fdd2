//! What pools offer, with all defaults filled in.

use std::num::NonZero;

use fed_core::PoolOffer;

use super::{AgentConfig, PoolConfig};

/// Most threads that a worker process gets by default: beyond about eight, Python's lock and the
/// readers' own locks leave cores idle.
const MAX_DEFAULT_THREADS: u32 = 8;

impl AgentConfig {
    /// The pools with all defaults filled in, for a host of `cores` and `memory_bytes`.
    ///
    /// Pools share both equally. Where `memory` is a default, all workers that a federation may
    /// have in a pool get 80 % of its share together; where the number of workers is one, no more
    /// of them are offered than fit into that.
    pub fn offers(&self, cores: u32, memory_bytes: u64) -> Vec<PoolOffer> {
        let own = self.own_pools();
        let share = u32::try_from(own.len()).unwrap_or(u32::MAX);
        own.iter()
            .map(|pool| pool.offer(cores / share, memory_bytes / u64::from(share)))
            .collect()
    }

    /// The pools as they are configured, or the one of the site's name.
    pub(super) fn own_pools(&self) -> Vec<PoolConfig> {
        if !self.pools.is_empty() {
            return self.pools.clone();
        }
        vec![PoolConfig {
            name: self
                .name
                .as_str()
                .parse()
                .expect("site and pool names have one form"),
            data: Vec::new(),
            workers: None,
            max_workers: None,
            threads: None,
            memory: None,
        }]
    }
}

impl PoolConfig {
    fn offer(&self, cores: u32, memory_bytes: u64) -> PoolOffer {
        let cores = cores.max(1);
        let threads = self.threads.map_or_else(
            || cores.div_ceil(cores.div_ceil(MAX_DEFAULT_THREADS)),
            NonZero::get,
        );
        // The rest is for the system, its caches, and the agent.
        let for_workers = memory_bytes / 5 * 4;
        let fitting = self
            .memory
            .map(|each| u32::try_from(for_workers / each.as_u64().max(1)).unwrap_or(u32::MAX));
        let by_default = (cores / threads).min(fitting.unwrap_or(u32::MAX)).max(1);
        let workers = match (self.workers, self.max_workers) {
            (Some(workers), _) => workers,
            (None, Some(max)) => by_default.min(max),
            (None, None) => by_default,
        };
        let max_workers = match (self.max_workers, fitting) {
            (Some(max), _) => max,
            (None, Some(fitting)) => workers.max(cores.min(fitting)),
            (None, None) => workers,
        };
        let each = for_workers / u64::from(max_workers.max(1));
        PoolOffer {
            name: self.name.clone(),
            data_roots: self.data.clone(),
            default_workers: workers,
            max_workers,
            threads,
            memory_bytes: self.memory.map_or(each, |size| size.as_u64()),
        }
    }
}
