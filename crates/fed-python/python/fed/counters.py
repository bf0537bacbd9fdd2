"""Counts what runs where, and what crosses between pools, on any Dask scheduler."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from fed.names import pools_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed.scheduler import Scheduler

    from fed.learning import Learner

_CONFIRMED = "confirm"


class PoolCounters(SchedulerPlugin):
    """A scheduler plugin that counts tasks, steals and reads by pool.

    It works with stock Dask as well as with fed's extension, so that the two can be compared:
    ``client.run_on_scheduler(fed.counters.install_counters)``.

    Parameters
    ----------
    scheduler
        The scheduler to watch.
    sites
        Site by pool. A pool that is not in it is taken for a site of the same name.
    learner
        Is told of workers and of finished tasks.
    """

    name = "fed-counters"

    def __init__(
        self,
        scheduler: Scheduler,
        sites: Mapping[str, str] | None = None,
        learner: Learner | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.learner = learner
        self.sites = dict(sites or {})
        self.pool_by_worker: dict[str, str] = {}
        self.tasks: Counter[str] = Counter()
        self.steals = 0
        self.cross_pool_steals = 0
        self.foreign_reads = 0
        for address in scheduler.workers:
            self.add_worker(scheduler, address)
        self._watch_steals()

    def stats(self, comm: object = None) -> dict[str, Any]:
        """Return the counts since the scheduler started.

        Parameters
        ----------
        comm
            Ignored; given when this is called as a handler of the scheduler.

        Returns
        -------
        dict
            ``tasks_per_pool`` and ``tasks_per_site``: tasks finished, by name.
            ``workers_per_pool``: workers now, by name.
            ``steals``, ``cross_pool_steals``: tasks moved from one worker to another, and those
            moved out of their pool.
            ``foreign_reads``: pinned tasks that a worker of another pool ran or refused.
        """
        del comm
        sites: Counter[str] = Counter()
        for pool, count in self.tasks.items():
            sites[self.sites.get(pool, pool)] += count
        return {
            "tasks_per_pool": dict(sorted(self.tasks.items())),
            "tasks_per_site": dict(sorted(sites.items())),
            "workers_per_pool": dict(sorted(self._workers_per_pool().items())),
            "steals": self.steals,
            "cross_pool_steals": self.cross_pool_steals,
            "foreign_reads": self.foreign_reads,
        }

    def _workers_per_pool(self) -> Counter[str]:
        return Counter(
            pool for address in self.scheduler.workers if (pool := self.pool_by_worker.get(address))
        )

    def _watch_steals(self) -> None:
        stealing = self.scheduler.extensions.get("stealing")
        if stealing is None:
            return
        plain = stealing.log

        def log(message: Any) -> None:
            self._count_steal(message)
            plain(message)

        stealing.log = log

    def _count_steal(self, message: Any) -> None:
        if not isinstance(message, tuple) or message[0] != _CONFIRMED:
            return
        _, _key, _state, victim, thief, _stimulus = message
        self.steals += 1
        if self.pool_by_worker.get(victim) != self.pool_by_worker.get(thief):
            self.cross_pool_steals += 1

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Remember the pool of a worker that joins."""
        if self.learner is not None:
            self.learner.joined()
        pools = pools_in(scheduler.workers[worker].resources)
        if pools:
            self.pool_by_worker[worker] = min(pools)

    def remove_worker(
        self, scheduler: Scheduler, worker: str, *, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Tell the learner when a pool loses its last worker."""
        del stimulus_id, kwargs
        pool = self.pool_by_worker.get(worker)
        others = {self.pool_by_worker.get(other) for other in scheduler.workers if other != worker}
        if pool is None or pool in others:
            return
        if self.learner is not None:
            self.learner.lost(pool)

    def transition(
        self,
        key: Any,
        start: str,
        finish: str,
        *args: Any,
        stimulus_id: str,
        **kwargs: Any,
    ) -> None:
        """Count a task that a worker has finished."""
        del args, stimulus_id
        if start != "processing" or finish not in {"memory", "erred"}:
            return
        worker = kwargs.get("worker")
        pool = self.pool_by_worker.get(worker) if isinstance(worker, str) else None
        if pool is None:
            return
        task = self.scheduler.tasks[key]
        if finish == "memory":
            if self.learner is not None:
                self.learner.finished(task, pool, kwargs.get("startstops", ()))
            self.tasks[pool] += 1
            pins = pools_in(task.resource_restrictions)
            self.foreign_reads += bool(pins) and pool not in pins
        elif "WrongPoolError" in (task.exception_text or ""):
            self.foreign_reads += 1


def install_counters(dask_scheduler: Scheduler) -> None:
    """Count on a scheduler that does not run fed's extension.

    Meant for ``client.run_on_scheduler(install_counters)``; read the counts with `read_counters`.
    """
    if PoolCounters.name not in dask_scheduler.plugins:
        dask_scheduler.add_plugin(PoolCounters(dask_scheduler))


def read_counters(dask_scheduler: Scheduler) -> dict[str, Any]:
    """Return the counts of a scheduler, for ``client.run_on_scheduler(read_counters)``."""
    counters: PoolCounters = dask_scheduler.plugins[PoolCounters.name]
    return counters.stats()
