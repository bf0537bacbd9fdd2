"""Tells of pools without workers for which tasks wait, and lets no task wait for ever.

A site may come back, or a job leave its queue: so the tasks wait for some time. Dask's own
``no-workers-timeout`` counts per task, knows no pools, and is off.
"""

from __future__ import annotations

import logging
import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from dask.utils import key_split, parse_timedelta
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from fed import _dask_private as dask_private
from fed.errors import EmptyPoolError
from fed.names import pools_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from distributed.scheduler import Scheduler, TaskState

    from fed.topology import Topology

logger = logging.getLogger("fed.scheduler")

TIMEOUT_VARIABLE = "FED_POOL_TIMEOUT"
"""Environment variable of the scheduler: how long tasks wait for a pool without workers, as
Dask writes it (``10 minutes``, or a number of seconds)."""

DEFAULT_TIMEOUT = "10 minutes"

LONGEST_TICK = 1.0
"""Seconds between two looks at what waits, at most."""


def timeout_from_environment() -> float:
    """Return how long tasks wait for a pool without workers, in seconds.

    Raises
    ------
    ValueError
        If the variable holds no duration.
    """
    text = os.environ.get(TIMEOUT_VARIABLE) or DEFAULT_TIMEOUT
    return float(parse_timedelta(text, default="s"))


class Vacancies(SchedulerPlugin):
    """A scheduler plugin that watches for pools without workers.

    Parameters
    ----------
    scheduler
        The scheduler.
    topology
        Its pools.
    sites
        Site by pool.
    timeout
        Seconds that tasks wait for such a pool.
    clock
        Returns seconds.
    """

    name = "fed-vacancies"

    def __init__(
        self,
        scheduler: Scheduler,
        topology: Topology,
        sites: Mapping[str, str],
        timeout: float,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.scheduler = scheduler
        self.topology = topology
        self.sites = dict(sites)
        self.timeout = timeout
        self.clock = clock
        self.waiting_since: dict[str, float] = {}
        self._pools = set(topology.names())
        tick = min(LONGEST_TICK, timeout / 4)
        self._looking = PeriodicCallback(self.look, tick * 1000)

    def install(self) -> None:
        """Begin to watch."""
        self.scheduler.add_plugin(self)
        self._looking.start()

    async def close(self) -> None:
        """Stop watching, with the scheduler."""
        self._looking.stop()

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Remember the pool of a worker that joins."""
        self._pools |= pools_in(scheduler.workers[worker].resources)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Look at once: the pool may have lost its last worker."""
        del scheduler, worker, kwargs
        # Its tasks are only now being taken from it.
        self.scheduler.loop.add_callback(self.look)

    def look(self) -> None:
        """Warn of each pool for which tasks begin to wait in vain; end those that have waited."""
        waiting = self._waiting()
        for pool in [pool for pool in self.waiting_since if pool not in waiting]:
            del self.waiting_since[pool]
        for pool, tasks in waiting.items():
            since = self.waiting_since.get(pool)
            if since is None:
                self.waiting_since[pool] = self.clock()
                self._warn(pool, len(tasks))
            elif self.clock() - since >= self.timeout:
                self._fail(pool, tasks)

    def _waiting(self) -> dict[str, list[TaskState]]:
        """Return the tasks that wait for a pool without workers, by pool."""
        tasks = list(self.scheduler.unrunnable)
        # The queue may be long, and is looked through only if some of it may wait in vain.
        if not all(self.topology.workers(pool) for pool in self._pools):
            tasks += self.scheduler.queued
        found: dict[str, list[TaskState]] = {}
        for task in tasks:
            for pool in pools_in(task.resource_restrictions):
                if not self.topology.workers(pool):
                    found.setdefault(pool, []).append(task)
        return found

    def _where(self, pool: str) -> str:
        return f"pool {pool!r} of site {self.sites.get(pool, pool)!r}"

    def _advice(self, pool: str) -> str:
        return (
            "`fed status` shows how the site stands,"
            f" `fed logs --only {self.sites.get(pool, pool)}` what its workers wrote"
        )

    def _warn(self, pool: str, count: int) -> None:
        tasks = "1 task waits" if count == 1 else f"{count} tasks wait"
        message = (
            f"{self._where(pool)} has no workers: {tasks} for it, for up to"
            f" {_text(self.timeout)}. {self._advice(pool)}."
        )
        logger.warning(message)
        # Every client shows what is logged under this topic as a warning.
        self.scheduler.log_event("warn", f"fed: {message}")

    def _fail(self, pool: str, tasks: list[TaskState]) -> None:
        del self.waiting_since[pool]
        logger.error(
            "%s has had no workers for %s: %d tasks that waited for it have failed",
            self._where(pool),
            _text(self.timeout),
            len(tasks),
        )
        errors = {task.key: self._error(pool, task) for task in tasks}
        dask_private.fail_tasks(self.scheduler, errors, "fed-pool-timeout")

    def _error(self, pool: str, task: TaskState) -> EmptyPoolError:
        return EmptyPoolError(
            f"task {key_split(task.key)!r} has waited {_text(self.timeout)} for"
            f" {self._where(pool)}, which has no workers. {self._advice(pool)}; when it has workers"
            " again, compute again. `fed up --pool-timeout` sets how long tasks wait.",
            task=task.key,
            pool=pool,
            site=self.sites.get(pool, pool),
        )


def _text(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{seconds:g} s" if rest else f"{minutes:g} min"
