"""The queue of root tasks per pool, and how many tasks a distant worker is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed import Event, wait

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
    def pool_of(self, worker: str) -> str:
        return worker


@pytest.mark.parametrize(
    ("rtt", "seconds", "extra"),
    [(0.04, 0.005, 8.0), (0.04, 1.0, 0.04), (0.04, 1e-9, 64.0), (0.0, 0.005, 0.0)],
)
def test_short_tasks_fill_the_round_trip(rtt: float, seconds: float, extra: float) -> None:
    topology: Any = Topology()
    worker: Any = SOUTH
    pace = Pace(topology, Links([{"source": "", "destination": SOUTH, "rtt": rtt}]))
    assert pace.extra(worker) == 0.0  # nothing has run yet
    pace.observe(SOUTH, seconds)
    assert pace.extra(worker) == pytest.approx(extra)


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
