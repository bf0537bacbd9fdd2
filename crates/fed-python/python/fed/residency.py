"""Keeps data in its pool when workers retire, and when memory is balanced or data replicated."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from fed import _dask_private as dask_private
from fed.names import pools_in

if TYPE_CHECKING:
    from collections.abc import Collection

    from distributed.scheduler import Scheduler, TaskState, WorkerState

    from fed.topology import Topology


class Residency:
    """Confines what moves data of itself, or at a client's request, to the pool that has it.

    Data leaves its pool only when the last worker there retires, or when a client names the
    workers that are to have it.

    Parameters
    ----------
    scheduler
        A running scheduler.
    topology
        Its pools.
    """

    def __init__(self, scheduler: Scheduler, topology: Topology) -> None:
        self.scheduler = scheduler
        self.topology = topology
        dask_private.hook_memory_manager(scheduler, self.recipients, self.droppers)
        self._rebalance = dask_private.hook_request(scheduler, "rebalance", self.rebalance)
        self._replicate = dask_private.hook_request(scheduler, "replicate", self.replicate)

    def homes(self, task: TaskState) -> frozenset[str]:
        """Return the pools in which a task's result belongs."""
        restricted = pools_in(task.resource_restrictions)
        return restricted or self.topology.pools_of(task.who_has or ())

    def recipients(self, task: TaskState, workers: set[WorkerState]) -> set[WorkerState]:
        """Return those workers of some that are at home, or all if none is."""
        homes = self.homes(task)
        near = {worker for worker in workers if self.topology.pool_of(worker) in homes}
        return near or workers

    def droppers(self, task: TaskState, workers: set[WorkerState]) -> set[WorkerState]:
        """Return those workers of some that are abroad, or all if none is."""
        homes = pools_in(task.resource_restrictions)
        far = {worker for worker in workers if self.topology.pool_of(worker) not in homes}
        return far if homes and far else workers

    async def rebalance(
        self, keys: Collection[Any] | None = None, workers: Collection[str] | None = None
    ) -> Any:
        """Balance memory within each pool."""
        failed: set[Any] = set()
        for members in self._by_pool(workers or self.scheduler.workers).values():
            answer = await self._rebalance(keys=keys, workers=members)
            if answer["status"] != "OK":
                failed.update(answer["keys"])
        if failed:
            return {"status": "partial-fail", "keys": sorted(failed, key=str)}
        return {"status": "OK"}

    async def replicate(
        self, keys: Collection[Any], workers: Collection[str] | None = None, **options: Any
    ) -> Any:
        """Copy data to other workers of its pool, or to the workers that the client names."""
        if workers is not None:
            return await self._replicate(keys=keys, workers=workers, **options)
        shares: defaultdict[frozenset[str], list[Any]] = defaultdict(list)
        for key in keys:
            task = self.scheduler.tasks.get(key)
            shares[self.homes(task) if task is not None else frozenset()].append(key)
        failed = None
        for pools, share in shares.items():
            members = [worker.address for pool in pools for worker in self.topology.workers(pool)]
            answer = await self._replicate(keys=share, workers=members or None, **options)
            if answer is not None and answer["status"] != "OK":
                failed = answer
        return failed

    def _by_pool(self, addresses: Collection[str]) -> dict[str | None, list[str]]:
        found: defaultdict[str | None, list[str]] = defaultdict(list)
        for address in addresses:
            worker = self.scheduler.workers.get(address)
            found[self.topology.pool_of(worker) if worker else None].append(address)
        return found
