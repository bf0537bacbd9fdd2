"""Chooses workers for tasks of a pool: spreads those that read, frees those that were placed."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from fed import _dask_private as dask_private
from fed.names import pools_in
from fed.placement import free, is_placed

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

    from fed.topology import Topology

SMALL = 64 << 10
"""Bytes of dependencies that may go to another worker of the pool for the sake of a free one."""


def spread_loads(scheduler: Scheduler, topology: Topology) -> None:
    """Make a scheduler spread a pool's tasks that depend on next to nothing.

    Dask spreads the roots of a graph, unless they are restricted to some workers: those all go
    where their dependency lies, such as the object that xarray opened, and the pool's other
    workers look on. As Dask does with roots, neighbours stay together.

    A placed task whose pool has no workers any more is free from then on.

    Parameters
    ----------
    scheduler
        A running scheduler.
    topology
        Its pools.
    """

    def choose(task: TaskState) -> WorkerState | None:
        if not task.resource_restrictions:
            return None
        pools = pools_in(task.resource_restrictions)
        if not pools:
            return None
        if is_placed(task) and not any(topology.workers(pool) for pool in pools):
            free(task)
            return None
        if sum(dependency.get_nbytes() for dependency in task.dependencies) > SMALL:
            return None
        workers = (scheduler.valid_workers(task) or set()) & scheduler.running
        group = task.group
        if not workers:
            return None
        if group.last_worker not in workers or not group.last_worker_tasks_left:
            group.last_worker = min(workers, key=partial(scheduler.worker_objective, task))
            share = group.last_worker.nthreads / sum(worker.nthreads for worker in workers)
            group.last_worker_tasks_left = math.ceil(len(group) * share)
        group.last_worker_tasks_left -= 1
        return group.last_worker

    dask_private.hook_placement(scheduler, choose)
