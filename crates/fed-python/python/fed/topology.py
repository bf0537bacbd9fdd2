"""Which workers make up which pool, as a scheduler knows it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fed.names import pools_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from distributed.scheduler import Scheduler, WorkerState


class Topology:
    """The pools of a scheduler's workers.

    Parameters
    ----------
    scheduler
        The scheduler.
    known
        The pools of the federation, with workers or without; those of workers are added.
    """

    def __init__(self, scheduler: Scheduler, known: Iterable[str] = ()) -> None:
        self.scheduler = scheduler
        self.known = tuple(known)
        self._pools: dict[str, tuple[str, str | None]] = {}
        self._members: dict[str, list[WorkerState]] = {}
        self._count = -1

    def pool_of(self, worker: WorkerState) -> str | None:
        """Return the pool of a worker; the first by name, should it offer several."""
        entry = self._pools.get(worker.address)
        if entry is None or entry[0] != worker.server_id:
            pools = pools_in(worker.resources)
            entry = (worker.server_id, min(pools) if pools else None)
            self._pools[worker.address] = entry
        return entry[1]

    def refresh(self) -> None:
        """Drop what is remembered, as a worker has joined or its resources have changed."""
        self._pools.clear()
        self._count = -1

    def _by_pool(self) -> dict[str, list[WorkerState]]:
        # Whoever calls `refresh` when workers join need not when they leave: there are fewer.
        if self._count != len(self.scheduler.workers):
            self._members = {}
            for worker in self.scheduler.workers.values():
                if (pool := self.pool_of(worker)) is not None:
                    self._members.setdefault(pool, []).append(worker)
            self._count = len(self.scheduler.workers)
        return self._members

    def names(self) -> tuple[str, ...]:
        """Return all pools by name: the order in which they are numbered."""
        return tuple(sorted(self._by_pool().keys() | set(self.known)))

    def workers(self, pool: str) -> list[WorkerState]:
        """Return the workers of a pool that are registered, running or not."""
        return self._by_pool().get(pool, [])

    def threads(self, pool: str) -> int:
        """Return the threads of a pool's workers."""
        return sum(worker.nthreads for worker in self.workers(pool))

    def pools_of(self, workers: Iterable[WorkerState]) -> frozenset[str]:
        """Return the pools of some workers, leaving out those outside every pool."""
        return frozenset(pool for worker in workers if (pool := self.pool_of(worker)) is not None)
