"""Chains of one pool become one task; what has other users, other pools, or a name does not."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import wait
from distributed.diagnostics.plugin import SchedulerPlugin

from fed.context import pinning
from fed.errors import PoolConflictError, StalePinError
from tests.python.inprocess import NORTH, SOUTH, pooled, pools_holding

CHUNKS = 8


def block(block_info: Any = None) -> Any:
    start, stop = block_info[None]["array-location"][0]
    return np.arange(start, stop, dtype="f8")


def array(pool: str, name: str) -> da.Array:
    with pinning(pool):
        return da.map_blocks(block, chunks=((50,) * CHUNKS,), dtype="f8", name=name)


def keys_of(scheduler: Any, array: da.Array) -> list[Any]:
    return [key for key in scheduler.tasks if key[0] == array.name]


EXPECTED = sum(range(50 * CHUNKS))


@pooled(north=(1, 1), south=(1, 1))
async def test_a_chunk_is_reduced_by_the_task_that_reads_it(c: Any, s: Any, *workers: Any) -> None:
    source = array(NORTH, "source")
    total = c.compute(source.sum())
    await wait(total)
    assert not keys_of(s, source)
    assert await total == EXPECTED


@pooled(north=(1, 1), south=(1, 1))
async def test_pools_are_not_fused(c: Any, s: Any, *workers: Any) -> None:
    north, south = array(NORTH, "n"), array(SOUTH, "s")
    both = c.persist(north + 2 * south)
    await wait(both)
    np.testing.assert_array_equal(await c.compute(both), 3 * np.arange(50 * CHUNKS))
    ran = {key[0] for key in s.tasks if isinstance(key, tuple)}
    assert any(name.startswith("add") for name in ran)


@pooled(north=(1, 1), south=(1, 1))
async def test_what_has_two_users_or_a_future_is_not_fused(c: Any, s: Any, *workers: Any) -> None:
    twice, kept = array(NORTH, "twice"), array(SOUTH, "kept")
    held = c.persist(kept)
    ratio = c.compute([twice.sum() / (twice.max() + 1), held.sum()])
    await wait(ratio)
    assert len(keys_of(s, held)) == CHUNKS
    last = 50 * CHUNKS - 1
    assert await c.gather(ratio) == [pytest.approx(EXPECTED / (last + 1)), EXPECTED]
    assert all(pools_holding(s, key) == {SOUTH} for key in keys_of(s, held))


@pooled(north=(1, 1), south=(1, 1))
async def test_a_graph_that_needs_what_was_fused_before(c: Any, s: Any, *workers: Any) -> None:
    source = array(NORTH, "again")
    squares = c.persist(source**2)
    await wait(squares)
    assert not keys_of(s, source)
    # Its chunks are no tasks so far, and the squares are made of nothing.
    both = c.compute([source.sum(), squares.sum(), (source**2 + source).sum()])
    values = np.arange(50 * CHUNKS, dtype="f8")
    expected = [values.sum(), (values**2).sum(), (values**2 + values).sum()]
    assert await c.gather(both) == expected


def table(part: int) -> Any:
    return pd.DataFrame({"k": np.arange(50) % 7, "x": np.arange(50) + part})


@pooled(north=(1, 1), south=(1, 1))
async def test_a_shuffle_keeps_its_tasks(c: Any, s: Any, *workers: Any) -> None:
    with pinning(NORTH):
        source = dd.from_map(table, range(CHUNKS), meta=table(0).iloc[:0])
    inputs = {}

    class Watch(SchedulerPlugin):
        def transition(self, key: Any, start: str, *args: Any, **kwargs: Any) -> None:
            if start == "processing" and "transfer" in str(key):
                inputs[key] = len(s.tasks[key].dependencies)

    s.add_plugin(Watch())
    with dask.config.set({"dataframe.shuffle.method": "p2p"}):
        moved = await c.compute(source.shuffle("k"))
    assert len(moved) == 50 * CHUNKS
    assert list(inputs.values()) == [1] * CHUNKS


def elsewhere(block_info: Any = None) -> Any:
    return 1000 * block(block_info)


def readings(read: Any) -> da.Array:
    return da.map_blocks(read, chunks=((50,) * CHUNKS,), dtype="f8", name="same")


@pooled(north=(1, 1), south=(1, 1))
async def test_a_fused_read_cannot_get_another_pin(c: Any, s: Any, *workers: Any) -> None:
    with dask.annotate(resources={"pool-north": 1}):
        total = c.compute(readings(block).sum())
    assert await total == EXPECTED
    with dask.annotate(resources={"pool-south": 1}):
        again = c.compute(readings(elsewhere).sum())
    with pytest.raises(PoolConflictError):
        await again


@pooled(north=(1, 1), south=(1, 1))
async def test_a_fused_read_cannot_be_pinned_later(c: Any, s: Any, *workers: Any) -> None:
    beside = array(NORTH, "beside")
    held = c.persist(readings(block)[::2] + beside[::2])
    await wait(held)
    with dask.annotate(resources={"pool-south": 1}):
        pinned = readings(elsewhere)
    again = c.compute((pinned[::2] + beside[::2]).sum())
    with pytest.raises(StalePinError):
        await again
