"""The queue of root tasks per pool, and how many tasks a distant worker is sent."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import dask.array as da
import pytest
from distributed import Event, wait
from distributed.diagnostics.plugin import SchedulerPlugin

from fed.context import pinning
from fed.links import Links
from fed.queueing import Pace
from tests.python.inprocess import NORTH, SOUTH, pool_of, pooled, pools_holding


async def hold(name: str, number: int) -> int:
    await Event(name).wait()
    return number


@pooled(north=(1, 1), south=(1,))
async def test_pinned_roots_are_queued_by_pool(c: Any, s: Any, *workers: Any) -> None:
    slots = 2  # Dask's own: a worker of one thread is sent two tasks
    north = c.map(hold, ["go"] * 20, range(20), resources={"pool-north": 0}, pure=False)
    south = c.map(hold, ["go"] * 20, range(20), resources={"pool-south": 0}, pure=False)
    free = c.map(hold, ["go"] * 20, range(20), pure=False)
    while len(s.tasks) < 60 or sum(len(w.processing) for w in s.workers.values()) < 6:
        await asyncio.sleep(0.01)
    for worker in s.workers.values():
        assert len(worker.processing) == slots
    assert len(s.queued) == 60 - 3 * slots
    await Event("go").set()
    assert await c.gather([*north, *south, *free]) == [*range(20)] * 3
    assert {pool for f in north for pool in pools_holding(s, f.key)} == {NORTH}
    assert {pool for f in south for pool in pools_holding(s, f.key)} == {SOUTH}
    assert not s.queued


@pooled(north=(1,), south=(1,))
async def test_a_full_pool_does_not_hold_up_another(c: Any, s: Any, *workers: Any) -> None:
    north = c.map(hold, ["go"] * 20, range(20), resources={"pool-north": 0}, pure=False)
    south = c.map(int, range(20), resources={"pool-south": 0}, pure=False)
    assert await c.gather(south) == [*range(20)]
    await Event("go").set()
    await wait(north)


@pooled(north=(1,), south=(1,))
async def test_queued_tasks_can_be_released(c: Any, s: Any, *workers: Any) -> None:
    north = c.map(hold, ["go"] * 20, range(20), resources={"pool-north": 0}, pure=False)
    while not s.queued:
        await asyncio.sleep(0.01)
    await c.cancel(north[5:])
    while len(s.queued) > 3:
        await asyncio.sleep(0.01)
    await Event("go").set()
    assert await c.gather(north[:2]) == [0, 1]


@pooled(north=(1,), south=(1,))
async def test_pinned_roots_wait_for_their_pool(c: Any, s: Any, *workers: Any) -> None:
    north = c.map(hold, ["go"] * 20, range(20), resources={"pool-north": 0}, pure=False)
    while not s.queued:
        await asyncio.sleep(0.01)
    await workers[0].close()
    await Event("go").set()
    assert await c.submit(int, 3) == 3
    assert not any(future.done() for future in north)
    async with type(workers[0])(s.address, nthreads=1, resources={"pool-north": 1}) as late:
        assert await c.gather(north) == [*range(20)]
        assert pool_of(s, late.address) == NORTH


class Topology:
    def pool_of(self, worker: Any) -> str:
        return SOUTH


@pytest.mark.parametrize(
    ("rtt", "seconds", "extra"),
    [
        (0.04, 0.005, 8.0),
        (0.04, 1.0, 0.04),
        (0.04, 1e-9, 64.0),
        (0.0, 0.005, 0.8),
        (0.0, 1e-9, 40.0),
    ],
)
def test_short_tasks_fill_the_round_trip(rtt: float, seconds: float, extra: float) -> None:
    topology: Any = Topology()
    worker: Any = SimpleNamespace(occupancy=0.0, nthreads=1)
    pace = Pace(topology, Links([{"source": "", "destination": SOUTH, "rtt": rtt}]))
    assert pace.extra(worker) == 0.0  # nothing has run yet
    pace.observe(SOUTH, seconds)
    assert pace.extra(worker) == pytest.approx(extra)
    worker.occupancy = 1.0  # a long task is in work, or one of unknown length
    assert pace.extra(worker) == 0.0


@pooled(north=(1,), south=(1,))
async def test_a_distant_worker_is_sent_more(c: Any, s: Any, *workers: Any) -> None:
    await c.scheduler.fed_links(links=[{"source": "", "destination": SOUTH, "rtt": 100.0}])
    await c.gather(c.map(int, range(4), resources={"pool-south": 0}, pure=False))
    held = c.map(hold, ["go"] * 100, range(100), resources={"pool-south": 0}, pure=False)
    near = c.map(hold, ["go"] * 100, range(100), resources={"pool-north": 0}, pure=False)
    while len(s.tasks) < 200 or not s.queued:
        await asyncio.sleep(0.01)
    counts = {pool_of(s, w.address): len(w.processing) for w in s.workers.values()}
    assert counts[NORTH] == 2
    assert counts[SOUTH] >= 64
    await Event("go").set()
    await wait([*held, *near])


class Peak(SchedulerPlugin):
    """Counts the chunks that workers hold, at most."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.chunks = 0

    def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
        tasks = self.scheduler.tasks.values()
        if finish == "memory":
            held = sum(task.state == "memory" and task.nbytes >= CHUNK for task in tasks)
            self.chunks = max(self.chunks, held)


CHUNK = 100_000


@pooled(north=(1, 1), south=(1, 1))
async def test_chunks_do_not_pile_up(c: Any, s: Any, *workers: Any) -> None:
    """Two tasks need each chunk, so that it is not fused with them."""
    chunks = 100
    peak = Peak(s)
    s.add_plugin(peak)
    with pinning(NORTH):
        source = da.random.default_rng(0).random(chunks * CHUNK // 8, chunks=CHUNK // 8)
    assert await c.compute(source.min() < source.max())
    # Each of the pool's two threads has one in work and one waiting, whose users run at once; those
    # of the last ones are still on their way to the workers.
    assert 0 < peak.chunks <= chunks // 4
