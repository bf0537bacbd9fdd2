"""Runs a test on a scheduler and workers in this process, with Dask's own consistency checks on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.utils_test import gen_cluster

if TYPE_CHECKING:
    from collections.abc import Callable

NORTH, SOUTH, WEST = "north", "south", "west"

CONFIG: dict[str, Any] = {
    "distributed.scheduler.preload": ["fed.scheduler"],
    "distributed.scheduler.validate": True,
    "distributed.worker.validate": True,
    "distributed.worker.memory.rebalance.measure": "managed",
    "distributed.worker.memory.rebalance.sender-min": 0.0,
    "distributed.worker.memory.rebalance.sender-recipient-gap": 0.0,
}


def pooled(**threads: tuple[int, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Run a coroutine function with a client, a scheduler, and workers of pools.

    Parameters
    ----------
    **threads
        Threads of each worker, by pool. Without any, two workers outside every pool.
    """
    workers: list[tuple[Any, ...]] = [
        ("127.0.0.1", count, {"resources": {f"pool-{pool}": 1}})
        for pool, counts in threads.items()
        for count in counts
    ]
    plain: list[tuple[Any, ...]] = [("127.0.0.1", 1), ("127.0.0.1", 2)]
    return gen_cluster(client=True, nthreads=workers or plain, config=CONFIG, timeout=60)


def pool_of(scheduler: Any, address: str) -> str:
    """Return the pool of a worker."""
    (name,) = [key for key in scheduler.workers[address].resources if key.startswith("pool-")]
    return name.removeprefix("pool-")


def pools_holding(scheduler: Any, key: Any) -> set[str]:
    """Return the pools whose workers hold a result."""
    return {pool_of(scheduler, worker.address) for worker in scheduler.tasks[key].who_has or ()}
