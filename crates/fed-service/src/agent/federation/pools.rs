//! The workers of a federation at a site: as many in each pool as the operator wants.

use fed_core::{PoolName, PoolOffer};
use fed_rpc::status::{Reason, Refusal};
use tokio::time::Instant;
use tracing::{info, warn};

use super::crew::{Crew, Exit};
use super::task::Task;
use super::{Happening, refuse};
use crate::agent::workers::WorkerKit;
use crate::node::{NodeError, NodeEvent, Report, log};

/// Lines of a worker's log that tell why it died.
const LAST_LINES: usize = 5;

impl Task {
    /// Starts the workers that are due in place of those that ended by themselves.
    pub(super) async fn replace(&mut self) {
        for pool in self.replacements.take(Instant::now()) {
            let wanted = self.record.crew.wanted(&pool);
            if let Err(refusal) = self.scale(&pool, wanted).await {
                let wait = self.replacements.lost(&pool, Instant::now());
                warn!(%pool, error = refusal.message, ?wait, "its workers were not replaced");
            }
        }
    }

    /// Takes note of the scheduler and of the names of all pools, and brings some pools to numbers of
    /// workers. A pool that fails does not keep the others from it; the first refusal is returned.
    pub(super) async fn start(
        &mut self,
        scheduler: String,
        pools: Vec<(PoolName, u32)>,
        all_pools: Vec<String>,
    ) -> Result<(), Refusal> {
        self.record.scheduler = Some(scheduler);
        self.record.all_pools = all_pools;
        let mut started = Ok(());
        for (pool, workers) in pools {
            started = started.and(self.want(&pool, workers).await);
        }
        started
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

    /// Starts new workers of a pool, or ends the youngest. The record says so first, so that no
    /// worker runs that a later agent does not know.
    async fn scale(&mut self, pool: &PoolName, wanted: u32) -> Result<(), Refusal> {
        let offer = self.offer(pool)?;
        let before = self.record.crew.clone();
        self.record.crew.want(pool, wanted);
        let surplus = self.record.crew.shed(pool);
        if !surplus.is_empty() {
            return self.terminate(surplus, before).await;
        }
        let hired = self.record.crew.hire(pool, self.record.member);
        if self.record.crew.is_short(pool) {
            // Others that may have started must have ended before.
            self.replacements.lost(pool, Instant::now());
        }
        let save = |kit| {
            let saved = self.save().map(|()| kit);
            saved.map_err(|error| refuse(Reason::Internal, &error))
        };
        let kit = match self.kit().and_then(save) {
            Ok(kit) => kit,
            Err(refusal) => {
                self.record.crew = before;
                return Err(refusal);
            }
        };
        for (index, name) in hired.iter().enumerate() {
            let Err(error) = self.client.run(kit.worker(name, &offer)).await else {
                continue;
            };
            let mut never_started = &hired[index..];
            if !matches!(error, NodeError::Refused(_)) {
                // It may be about to start.
                self.record.crew.doubt(name);
                never_started = &never_started[1..];
            }
            let had = before.wanted(pool);
            self.record.crew.unhire(pool, never_started, had);
            if self.record.crew.is_short(pool) {
                self.replacements.lost(pool, Instant::now());
            }
            self.end_again().await;
            self.note();
            return Err(refuse(Reason::ProcessFailed, &error));
        }
        Ok(())
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
        let before = self.record.crew.clone();
        let stopped = self.record.crew.stop(names).map_err(|unknown| {
            let message = format!("{} has no worker {unknown}", self.host.site);
            Refusal::new(Reason::UnknownWorker, message)
        })?;
        self.terminate(stopped, before).await
    }

    /// Has the node end workers that count as ending already. If it cannot be told, all is as it
    /// was `before`.
    async fn terminate(&mut self, names: Vec<String>, before: Crew) -> Result<(), Refusal> {
        self.note();
        if names.is_empty() {
            return Ok(());
        }
        let told = self.client.terminate(names).await;
        if told.is_err() {
            self.record.crew = before;
            self.note();
        }
        told.map_err(|error| refuse(Reason::SiteNotReady, &error))
    }

    /// Tells the node again to end the workers that are to end, and asks it which are still there:
    /// an event or an order may have been lost.
    pub(super) async fn see_to_endings(&mut self) {
        if self.record.crew.ending().is_empty() {
            return;
        }
        match self.settle().await {
            Ok(report) => self.record.crew.have_ended_but(&report.processes),
            Err(error) => warn!(%error, "it is not known which workers have ended"),
        }
    }

    /// Tells the node to end the workers that are to end, and asks it what runs. In this order: a
    /// worker that does not run when the node is told will not start any more.
    pub(super) async fn settle(&self) -> Result<Report, NodeError> {
        let ending = self.record.crew.ending();
        if !ending.is_empty() {
            self.client.terminate(ending).await?;
        }
        self.client.report().await
    }

    /// Tells the node again to end the workers that are to end.
    pub(super) async fn end_again(&mut self) {
        let ending = self.record.crew.ending();
        if ending.is_empty() {
            return;
        }
        if let Err(error) = self.client.terminate(ending).await {
            warn!(%error, "workers that are to end have not been told");
        }
    }

    /// Writes down what cannot wait for room on the disk.
    fn note(&self) {
        if let Err(error) = self.save() {
            warn!(%error, "the record of the federation is not up to date");
        }
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
        if let Exit::Lost(pool) = self.record.crew.exited(&name, success, asked) {
            let wait = self.replacements.lost(&pool, Instant::now());
            info!(
                worker = name,
                status,
                ?wait,
                "another worker will take its place"
            );
        }
        self.note();
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
