"""Queues the root tasks of each pool, and fills the round trip to workers that are far away.

Without a queue a pool's workers would be sent all of its root tasks at once, and hold what they
read long before it is used: Dask queues only tasks that may run anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fed import _dask_private as dask_private
from fed.names import RESOURCE_PREFIX
from fed.placement import free, is_placed

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

    from fed.links import Links
    from fed.topology import Topology

MOST_PER_THREAD = 64.0
"""Tasks beyond Dask's own setting that wait at a worker, per thread, however short they are."""

LEAST_ROUND_TRIP = 0.004
"""Seconds until a worker next door has its next task: messages are gathered for 2 ms each way."""

WEIGHT = 0.1
"""Weight of the newest duration in the mean of a pool's root tasks."""


def sole_pool(task: TaskState) -> str | None:
    """Return the pool that a task is restricted to, if that is its only restriction."""
    restrictions = task.resource_restrictions
    if not restrictions or len(restrictions) > 1:
        return None
    ((name, amount),) = restrictions.items()
    if amount or not name.startswith(RESOURCE_PREFIX):
        return None
    return str(name).removeprefix(RESOURCE_PREFIX)


class Pace:
    """How long the root tasks of each pool take, and so how many fill a round trip.

    Parameters
    ----------
    topology
        The pools.
    links
        The round trips from the scheduler to them.
    """

    def __init__(self, topology: Topology, links: Links) -> None:
        self.topology = topology
        self.links = links
        self._durations: dict[str, float] = {}

    def observe(self, pool: str, seconds: float) -> None:
        """Take note of one finished root task."""
        mean = self._durations.get(pool, seconds)
        self._durations[pool] = mean + WEIGHT * (seconds - mean)

    def extra(self, worker: WorkerState) -> float:
        """Return the tasks per thread that keep a worker busy for the time of a round trip."""
        pool = self.topology.pool_of(worker)
        if pool is None or pool not in self._durations:
            return 0.0
        rtt = max(self.links.rtt_of(pool), LEAST_ROUND_TRIP)
        if worker.occupancy > 2 * rtt * worker.nthreads:
            return 0.0  # what it has keeps it busy for longer
        return min(rtt / max(self._durations[pool], 1e-4), MOST_PER_THREAD)


def queue_by_pool(scheduler: Scheduler, topology: Topology, pace: Pace) -> dask_private.PoolQueues:
    """Give a scheduler a queue per pool.

    Parameters
    ----------
    scheduler
        A running scheduler.
    topology
        Its pools.
    pace
        Says how many tasks a worker is sent beyond its threads.
    """
    queues = dask_private.PoolQueues(scheduler, sole_pool, topology.pool_of, topology.threads)
    queues.install()
    dask_private.hook_saturation(pace.extra)
    return queues


def free_if_placed(task: TaskState) -> bool:
    """Lift the restriction of a placed task, and tell whether it was one."""
    placed = is_placed(task)
    if placed:
        free(task)
    return placed
