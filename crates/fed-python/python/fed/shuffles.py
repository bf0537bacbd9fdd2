"""Keeps peer-to-peer shuffles and rechunks in the pool in which their barrier is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fed import _dask_private as dask_private
from fed.names import pools_in
from fed.placement import free, is_placed

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState

    from fed.topology import Topology


def confine_shuffles(scheduler: Scheduler, topology: Topology) -> None:
    """Put the outputs of a shuffle together in the pool of its barrier, if that has one.

    The output tasks are restricted to the same pool: on a worker elsewhere they would wait for
    ever.

    Parameters
    ----------
    scheduler
        A running scheduler.
    topology
        Its pools.
    """

    def workers_of(barrier: TaskState) -> set[str] | None:
        pools = pools_in(barrier.resource_restrictions)
        if not pools:
            return None
        addresses = {worker.address for pool in pools for worker in topology.workers(pool)}
        if addresses or not is_placed(barrier):
            return addresses
        for task in (barrier, *barrier.dependents):
            if is_placed(task) and task.state != "processing":
                free(task)
        return None

    dask_private.hook_shuffles(scheduler, workers_of)
