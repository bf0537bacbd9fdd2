//! The workers of a federation at a site: as many in each pool as the operator wants.

use fed_core::{PoolName, PoolOffer};
use fed_rpc::status::{Reason, Refusal};
use tokio::time::Instant;
use tracing::{info, warn};

use super::task::Task;
use super::{Happening, refuse};
use crate::agent::workers::{self, WorkerKit};
use crate::node::{NodeEvent, log};

/// Lines of a worker's log that tell why it died.
const LAST_LINES: usize = 5;

impl Task {
    /// Starts the workers that are due in place of those that ended by themselves.
    pub(super) async fn replace(&mut self) {
        for pool in self.replacements.take(Instant::now()) {
            let wanted = self.record.wanted.get(&pool).copied().unwrap_or_default();
            if let Err(refusal) = self.scale(&pool, wanted).await {
                let wait = self.replacements.lost(&pool, Instant::now());
                warn!(%pool, error = refusal.message, ?wait, "its workers were not replaced");
            }
        }
    }

    /// Brings a pool to a number of workers, and keeps it there.
    pub(super) async fn want(&mut self, pool: &PoolName, wanted: u32) -> Result<(), Refusal> {
        let offer = self.offer(pool)?;
        if wanted > offer.max_workers {
            let message = format!(
                "pool {pool} allows {} workers, not {wanted}",
                offer.max_workers
            );
            return Err(Refusal::new(Reason::Exhausted, message));
        }
        self.record.wanted.insert(pool.clone(), wanted);
        self.scale(pool, wanted).await
    }

    fn offer(&self, pool: &PoolName) -> Result<PoolOffer, Refusal> {
        let offer = self.host.pools.iter().find(|offer| offer.name == *pool);
        offer.cloned().ok_or_else(|| {
            Refusal::new(
                Reason::UnknownPool,
                format!("{} has no pool {pool}", self.host.site),
            )
        })
    }

    /// Starts new workers of a pool, or ends the youngest.
    async fn scale(&mut self, pool: &PoolName, wanted: u32) -> Result<(), Refusal> {
        let offer = self.offer(pool)?;
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let have = self.record.workers.get(pool).map_or(0, Vec::len);
        if have > wanted {
            let surplus = self.record.workers[pool][wanted..].to_vec();
            return self.terminate(surplus).await;
        }
        let kit = self.kit()?;
        for _ in have..wanted {
            let name = workers::name(pool, self.record.member, self.record.next_worker);
            let started = self.client.run(kit.worker(&name, &offer)).await;
            started.map_err(|error| refuse(Reason::ProcessFailed, &error))?;
            self.record.next_worker += 1;
            self.record
                .workers
                .entry(pool.clone())
                .or_default()
                .push(name);
        }
        self.save()
            .map_err(|error| refuse(Reason::Internal, &error))
    }

    fn kit(&self) -> Result<WorkerKit, Refusal> {
        let scheduler = self.record.scheduler.clone().ok_or_else(|| {
            Refusal::new(
                Reason::OutOfOrder,
                "no scheduler is known yet; call Start first",
            )
        })?;
        Ok(WorkerKit {
            site: self.host.site.clone(),
            address: self.record.id.router(self.record.member),
            interpreter: self.host.interpreter.clone(),
            folder: self.node.clone(),
            scheduler,
            all_pools: self.record.all_pools.clone(),
            processes: self.host.processes,
        })
    }

    /// Ends workers by name, all of them if none is named.
    pub(super) async fn stop_workers(&mut self, names: Vec<String>) -> Result<(), Refusal> {
        let known = self.names();
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            let message = format!("{} has no worker {unknown}", self.host.site);
            return Err(Refusal::new(Reason::UnknownWorker, message));
        }
        for (pool, workers) in &self.record.workers {
            let stopped = |worker: &&String| names.is_empty() || names.contains(worker);
            let stopped = u32::try_from(workers.iter().filter(stopped).count());
            if let Some(wanted) = self.record.wanted.get_mut(pool) {
                *wanted = wanted.saturating_sub(stopped.unwrap_or(u32::MAX));
            }
        }
        self.terminate(names).await
    }

    async fn terminate(&mut self, names: Vec<String>) -> Result<(), Refusal> {
        for workers in self.record.workers.values_mut() {
            workers.retain(|worker| !names.is_empty() && !names.contains(worker));
        }
        let terminated = self.client.terminate(names).await;
        terminated.map_err(|error| refuse(Reason::SiteNotReady, &error))?;
        self.save()
            .map_err(|error| refuse(Reason::Internal, &error))
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.record.workers.values().flatten().cloned().collect()
    }

    /// Passes on what happened in the node.
    pub(super) fn tell(&mut self, event: NodeEvent) {
        let NodeEvent::Exited {
            name,
            status,
            success,
            asked,
        } = event
        else {
            return;
        };
        for (pool, workers) in &mut self.record.workers {
            let before = workers.len();
            workers.retain(|worker| *worker != name);
            if workers.len() == before {
                continue;
            }
            if !success {
                let wait = self.replacements.lost(pool, Instant::now());
                info!(
                    worker = name,
                    status,
                    ?wait,
                    "another worker will take its place"
                );
            } else if let Some(wanted) = self.record.wanted.get_mut(pool) {
                // The scheduler retired it.
                *wanted = wanted.saturating_sub(1);
            }
        }
        if let Err(error) = self.save() {
            warn!(%error, "the record of the federation is not up to date");
        }
        if asked {
            return;
        }
        let last_lines = log::of_process(&self.node, &name, LAST_LINES);
        warn!(worker = name, status, ?last_lines, "worker ended by itself");
        // Nobody need be watching.
        let _ = self.events.send(Happening::WorkerExited {
            worker: name,
            status,
            last_lines,
        });
    }
}
