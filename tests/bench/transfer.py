"""Chunks that one Dask worker fetches from another, by whatever network its addresses lead to.

    python -m tests.bench.transfer near HOST
    python -m tests.bench.transfer far HOST SCHEDULER

`near` is a scheduler, a client and a worker; it prints the scheduler's address, and then, for each
line with a number of bytes, the seconds in which the worker `far` fetched a chunk of that size from
it, by Dask's own count. It ends with its input. `cargo xtask bench mesh` runs pairs of them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from distributed import Client, Scheduler, Worker, get_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NEAR, FAR = "near", "far"


def chunk(size: int, seed: int) -> np.ndarray:
    """Return `size` bytes that nothing could compress."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def fetched(data: np.ndarray, size: int) -> float:
    """Return the seconds that this worker took to fetch its argument."""
    assert len(data) == size
    return float(get_worker().transfer_incoming_log[-1]["duration"])


@asynccontextmanager
async def worker(scheduler: str, host: str, name: str) -> AsyncIterator[Worker]:
    """Run a worker with one thread and without a limit of memory."""
    options: dict[str, Any] = {"nthreads": 1, "memory_limit": 0}
    async with Worker(scheduler, host=host, name=name, **options) as running:
        yield running


async def transfer(client: Client, size: int, seed: int) -> float:
    """Let `far` fetch a chunk of `near`; return the seconds."""
    data = client.submit(chunk, size, seed, workers=NEAR, pure=False)
    await data
    seconds = await client.submit(fetched, data, size, workers=FAR, pure=False)
    data.release()
    return float(seconds)


async def near(host: str) -> None:
    """Serve, and answer each line."""
    async with (
        Scheduler(host=host, port=0, dashboard=False) as scheduler,
        worker(scheduler.address, host, NEAR),
        Client(scheduler.address, asynchronous=True) as client,
    ):
        print(scheduler.address, flush=True)
        await client.wait_for_workers(2)
        lines = iter(sys.stdin.readline, "")
        for seed in range(sys.maxsize):
            line = await asyncio.to_thread(next, lines, None)
            if line is None:
                return
            print(await transfer(client, int(line), seed), flush=True)


async def far(host: str, scheduler: str) -> None:
    """Work until the scheduler ends."""
    async with worker(scheduler, host, FAR) as running:
        await running.finished()


def main() -> None:
    """Be one side."""
    parser = argparse.ArgumentParser(description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser(NEAR).add_argument("host")
    other = roles.add_parser(FAR)
    other.add_argument("host")
    other.add_argument("scheduler")
    given = parser.parse_args()
    host = f"[{given.host}]" if ":" in given.host else given.host
    with tempfile.TemporaryDirectory(prefix="fed-bench-") as scratch:
        # Only what is asked for is to be sent.
        dask.config.set({"distributed.worker.profile.enabled": False})
        # The scheduler has such a folder too.
        dask.config.set({"temporary-directory": scratch})
        asyncio.run(near(host) if given.role == NEAR else far(host, given.scheduler))


if __name__ == "__main__":
    main()
