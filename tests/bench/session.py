"""What the placement benchmark runs in a Python session on the operator's host.

Neither the session nor workers can import this: it reaches them by value, so nothing here is kept
between two calls.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import dask
from dask.sizeof import sizeof
from distributed import get_client, wait
from distributed.shuffle._core import ShuffleRun, barrier_key

import fed
from fed.ledger import OPERATION, count_outgoing
from tests.bench import recording
from tests.bench.workloads import Source, Workload

PATIENCE = 300.0
"""Seconds that one workload may take."""

RESULT = "bench-result"

PREPARED = {"optimization.fuse.active": False, "optimization.annotations.fuse": False}
"""What keeps stock Dask from losing annotations."""


def prepare(with_fed: bool) -> None:
    """Connect the session's client to what the benchmark needs."""
    client = get_client()
    if with_fed:
        client.register_plugin(recording.Recorder())
        client.run(_start_counting_shards)
    else:
        client.run(_start_counting)
        client.run_on_scheduler(_keep_annotations)


def _start_counting(dask_worker: Any) -> None:
    count_outgoing(dask_worker)


def _start_counting_shards() -> None:
    """Count the shards of peer-to-peer shuffles, those that stay on their worker too."""
    plain = ShuffleRun._send
    counted: Counter[str] = Counter()

    async def _send(self: Any, address: str, shards: Any) -> Any:
        size = len(shards) if isinstance(shards, bytes) else sizeof(shards)
        counted[str(barrier_key(self.id))] += size
        return await plain(self, address, shards)

    ShuffleRun._send = _send
    ShuffleRun.bench_counted = counted


def _read_shards() -> dict[str, int]:
    return dict(ShuffleRun.bench_counted)


def shards() -> dict[str, int]:
    """Return the bytes of all shards so far, by the key of the shuffle's barrier."""
    found: Counter[str] = Counter()
    for counted in get_client().run(_read_shards).values():
        found.update(counted)
    return dict(found)


def _keep_annotations() -> None:
    dask.config.set(PREPARED)


def _read_counts(dask_worker: Any) -> tuple[str, list[Any]]:
    (pool,) = [name for name in dask_worker.state.total_resources if name.startswith("pool-")]
    return pool, dask_worker.handlers[OPERATION]()


def crossed() -> int:
    """Return the bytes that have crossed between pools so far, at Dask's comms."""
    reports = get_client().run(_read_counts)
    pools = {address: pool for address, (pool, _) in reports.items()}
    return sum(
        nbytes
        for address, (_, report) in reports.items()
        for peer, *_, nbytes in report
        if peer in pools and pools[peer] != pools[address]
    )


def _annotated(pool: str) -> Any:
    """Pin as stock Dask can."""
    return dask.annotate(resources={f"pool-{pool}": 0})


def compute(workload: Workload, with_fed: bool) -> None:
    """Compute a workload, and leave its result where it was made, under the name `RESULT`."""
    client = get_client()
    method = "p2p" if workload.peer_to_peer else "tasks"
    with dask.config.set({"array.rechunk.method": method, "dataframe.shuffle.method": "p2p"}):
        future = client.compute(workload.build(Source(fed.pool if with_fed else _annotated)))
        wait(future, timeout=PATIENCE)
    if error := future.exception():
        raise error
    client.publish_dataset(future, name=RESULT, override=True)


def result() -> Any:
    """Return the result of the last workload, and forget it."""
    client = get_client()
    value = client.get_dataset(RESULT).result()
    client.unpublish_dataset(RESULT)
    return value


def forget() -> None:
    """Forget the last workload without looking at it."""
    get_client().unpublish_dataset(RESULT)


def recorded() -> dict[Any, Any]:
    """Return the tasks that have run, see `recording.take`."""
    found: dict[Any, Any] = get_client().run_on_scheduler(recording.take)
    return found


def estimated() -> int:
    """Return what fed has expected to cross for the last workload."""
    return sum(nbytes for *_, nbytes in fed.traffic()["computations"][-1]["estimated"])
