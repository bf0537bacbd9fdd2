"""Functions that the tests run on workers; a module of its own, as workers import it."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from distributed import Client, Event, wait

from tests.python.federations import POOLS

SLOW, QUICK = POOLS


def pool_here() -> str:
    """Return the pool of the worker process that calls this, without asking fed."""
    return os.environ["FED_TEST_POOL"]


def pool_after(event: str, *_inputs: object) -> str:
    """Wait for an event, then return the pool of this worker."""
    Event(event).wait()
    return pool_here()


def linger(value: bytes) -> int:
    """Take long in one pool and no time in the other, so that the other runs out of work."""
    time.sleep(0.1 if pool_here() == SLOW else 0.001)
    return len(value)


def provoke_steals(client: Client) -> None:
    """Submit tasks that all want to run where their data is, in the slow pool."""
    sources = client.map(bytes, [100_000] * 60, resources={f"pool-{SLOW}": 0}, pure=False)
    wait(sources)
    assert client.gather(client.map(linger, sources, pure=False)) == [100_000] * 60


def pool_of_nothing(_value: object) -> str:
    """Return the pool of the worker process that calls this, whatever the argument."""
    return pool_here()


def pool_of_block(block_id: tuple[int, ...] | None = None) -> Any:
    """Return the pool of the worker process as an array of one element."""
    del block_id
    return np.array([pool_here()], dtype=object)


def states_of(dask_scheduler: Any, keys: list[str]) -> list[str]:
    """Return the states of tasks that the scheduler knows, for `run_on_scheduler`."""
    tasks = dask_scheduler.tasks
    return [tasks[key].state if key in tasks else "unknown" for key in keys]


def restrictions_of(dask_scheduler: Any, keys: list[str]) -> list[dict[str, float]]:
    """Return the resource restrictions of tasks, for `run_on_scheduler`."""
    return [dict(dask_scheduler.tasks[key].resource_restrictions or {}) for key in keys]


def forget_pin(dask_scheduler: Any, key: str) -> None:
    """Make a task look as if it had been submitted without a pin, for `run_on_scheduler`."""
    dask_scheduler.tasks[key].resource_restrictions = {}


def add_pool_here(block: Any) -> Any:
    """Return a block of names with the pool of this worker appended to each."""
    return np.array([f"{name}>{pool_here()}" for name in block], dtype=object)


def same_block(block: Any) -> Any:
    """Return a block as it is."""
    return block


def zeros(size: int, number: int) -> bytes:
    """Return some bytes; the number makes the task another one."""
    del number
    return bytes(size)


def joined_size(first: bytes, second: bytes) -> int:
    """Return the bytes of two parts."""
    return len(first) + len(second)


def count_tasks(dask_scheduler: Any) -> int:
    """Return how many tasks the scheduler knows."""
    return len(dask_scheduler.tasks)
