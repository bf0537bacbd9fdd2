"""Code that uses no pools behaves as on stock Dask, with Dask's own consistency checks on."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Event, Worker, performance_report, secede, wait, worker_client

from tests.python.inprocess import pooled


async def hold(name: str, number: int = 0) -> int:
    await Event(name).wait()
    return number


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def add(left: int, right: int) -> int:
    return left + right


async def slow(number: int) -> int:
    await asyncio.sleep(0.02)
    return number


class Counter:
    value = 0

    def increment(self) -> int:
        self.value += 1
        return self.value


@pooled()
async def test_resources(c: Any, s: Any, a: Any, b: Any) -> None:
    async with Worker(s.address, nthreads=1, resources={"GPU": 1}) as worker:
        futures = c.map(int, range(10), resources={"GPU": 1}, pure=False)
        assert await c.gather(futures) == [*range(10)]
        assert all(s.tasks[f.key].who_has == {s.workers[worker.address]} for f in futures)
        assert all(s.tasks[f.key].resource_restrictions == {"GPU": 1} for f in futures)


@pooled(north=(1,), south=(1,))
async def test_worker_restrictions(c: Any, s: Any, a: Any, b: Any) -> None:
    futures = c.map(int, range(30), workers=[b.address], pure=False)
    await wait(futures)
    assert set(b.data) == {future.key for future in futures}
    loose = c.submit(int, 1, workers=["127.0.0.1:9"], allow_other_workers=True)
    assert await loose == 1


@pooled(north=(1, 1), south=(1,))
async def test_a_worker_restriction_holds_against_the_placement(
    c: Any, s: Any, a: Any, b: Any, far: Any
) -> None:
    big = c.submit(bytes, 1_000_000, resources={"pool-north": 0})
    length = c.submit(len, big, workers=[far.address])
    assert await length == 1_000_000
    assert length.key in far.data


@pytest.mark.parametrize("nbytes", [1, 1_000_000])
@pooled()
async def test_idle_workers_steal(c: Any, s: Any, a: Any, b: Any, nbytes: int) -> None:
    """In another pool too: data that no pool was asked for lies in one by chance."""
    root = await c.scatter(bytes(nbytes), workers=[a.address])
    futures = c.map(slow, [root] * 100, pure=False)
    await wait(futures)
    assert a.data
    assert len([f for f in futures if f.key in b.data]) > 10


@pooled()
async def test_roots_are_queued(c: Any, s: Any, a: Any, b: Any) -> None:
    futures = c.map(hold, ["go"] * 50, range(50), pure=False)
    await until(lambda: len(s.queued) == 50 - 2 - 3)
    await Event("go").set()
    assert await c.gather(futures) == [*range(50)]


@pooled(north=(1,), south=(1,))
async def test_actors(c: Any, s: Any, a: Any, b: Any) -> None:
    actor = await c.submit(Counter, actor=True)
    assert [await actor.increment() for _ in range(3)] == [1, 2, 3]


def leave_and_wait(name: str) -> int:
    secede()
    Event(name).wait()
    return 1


@pooled()
async def test_long_running_tasks_leave_their_thread(c: Any, s: Any, a: Any, b: Any) -> None:
    lasting = c.map(leave_and_wait, ["go"] * 6, pure=False)
    await until(lambda: sum(len(w.long_running) for w in s.workers.values()) == 6)
    assert await c.submit(int, 2) == 2
    await Event("go").set()
    assert await c.gather(lasting) == [1] * 6


def of_tasks(number: int) -> int:
    with worker_client() as client:
        return sum(client.gather(client.map(int, range(number))))


@pooled()
async def test_tasks_submit_tasks(c: Any, s: Any, a: Any, b: Any) -> None:
    assert await c.submit(of_tasks, 10) == 45


async def flaky(name: str) -> int:
    if not await Event(name).is_set():
        await Event(name).set()
        raise OSError("once")
    return 7


@pooled()
async def test_retries(c: Any, s: Any, a: Any, b: Any) -> None:
    assert await c.submit(flaky, "failed-before", retries=2) == 7


@pooled(north=(1,), south=(1,))
async def test_an_error_is_the_tasks_own(c: Any, s: Any, a: Any, b: Any) -> None:
    failed = c.submit(int, "x")
    after = c.submit(add, failed, 1)
    with pytest.raises(ValueError, match="invalid literal"):
        await after


@pooled()
async def test_cancellation(c: Any, s: Any, a: Any, b: Any) -> None:
    futures = c.map(hold, ["go"] * 20, pure=False)
    await until(lambda: s.queued)
    await c.cancel(futures)
    await until(lambda: not s.tasks)
    assert not s.queued


@pooled()
async def test_results_of_a_lost_worker_are_computed_again(c: Any, s: Any, a: Any, b: Any) -> None:
    futures = c.map(int, range(20), pure=False)
    total = c.submit(sum, futures, pure=False)
    await wait(futures)
    await b.close()
    assert await total == 190
    assert await c.gather(futures) == [*range(20)]


@pooled(north=(1,), south=(1, 1))
async def test_scatter_and_publish(c: Any, s: Any, *workers: Any) -> None:
    spread = await c.scatter([1, 2, 3], broadcast=True)
    assert all(len(s.tasks[future.key].who_has) == 3 for future in spread)
    await c.publish_dataset(spread[0], name="one")
    assert await (await c.get_dataset("one")) == 1


@pooled(north=(1,), south=(1,))
async def test_shuffles_peer_to_peer(c: Any, s: Any, a: Any, b: Any) -> None:
    array = da.ones((40, 40), chunks=(40, 4)).rechunk((4, 40), method="p2p")
    np.testing.assert_array_equal(await c.compute(array), np.ones((40, 40)))
    frame = dd.from_pandas(pd.DataFrame({"k": range(40)}), npartitions=4)
    merged = await c.compute(frame.merge(frame, on="k", shuffle_method="p2p"))
    assert sorted(merged["k"]) == [*range(40)]


@pooled()
async def test_adaptive_target_follows_the_queue(c: Any, s: Any, a: Any, b: Any) -> None:
    await c.submit(int, 1)
    futures = c.map(hold, ["go"] * 40, pure=False)
    await until(lambda: s.queued)
    assert s.adaptive_target(target_duration=1) > 2
    await Event("go").set()
    await wait(futures)


@pooled()
async def test_performance_report(c: Any, s: Any, a: Any, b: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        async with performance_report(str(file)):
            await c.gather(c.map(int, range(10), pure=False))
        assert "bokeh" in file.read_text().lower()


@pooled(north=(1, 1), south=(1, 1))
async def test_a_graph_without_pools_is_not_restricted(c: Any, s: Any, *workers: Any) -> None:
    total = await c.compute(da.ones((400, 400), chunks=(20, 20)).sum())
    assert total == 160_000
    kept = c.persist(da.ones((40, 40), chunks=(20, 20)) + 1)
    await wait(kept)
    assert not any(task.resource_restrictions for task in s.tasks.values())
