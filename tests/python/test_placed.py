"""Placed tasks: where they run, and what becomes of them when pools or sizes change."""

from __future__ import annotations

import asyncio
from typing import Any

from dask.delayed import delayed
from distributed import Event, Worker, wait

import fed
from fed.context import pinning
from fed.pins import Pinned
from fed.placement import is_placed
from fed.relays import is_relay
from tests.python.inprocess import NORTH, SOUTH, pool_of, pooled, pools_holding


def length(*parts: Any) -> int:
    return sum(len(part) for part in parts if part is not None)


async def gate(name: str) -> None:
    await Event(name).wait()


def pinned(pool: str, nbytes: int, count: int = 1) -> list[Any]:
    with pinning(pool):
        return [delayed(bytes, pure=False)(nbytes) for _ in range(count)]


@pooled(north=(1, 1), south=(1, 1))
async def test_a_task_runs_where_most_of_its_input_is(c: Any, s: Any, *workers: Any) -> None:
    big = c.submit(bytes, 1_000_000, resources={"pool-north": 0})
    small = c.submit(bytes, 100_000, resources={"pool-south": 0})
    await wait([big, small])
    total = c.submit(length, big, small)
    assert await total == 1_100_000
    assert is_placed(s.tasks[total.key])
    assert pools_holding(s, total.key) == {NORTH}


@pooled(north=(1, 1), south=(1, 1))
async def test_an_input_crosses_once_to_several_workers(c: Any, s: Any, *workers: Any) -> None:
    big = c.submit(bytes, 1_000_000, resources={"pool-north": 0})
    await wait(big)
    there = [c.submit(bytes, 3_000_000, pure=False, workers=[w.address]) for w in workers[2:] * 2]
    await wait(there)
    graph = [delayed(length)(big, other) for other in there]
    assert await c.gather(c.compute(graph)) == [4_000_000] * 4
    sent = [
        entry
        for worker in workers[:2]
        for entry in worker.transfer_outgoing_log
        if pool_of(s, entry["who"]) == SOUTH
    ]
    assert len(sent) == 1


@pooled(north=(1,), south=(1,))
async def test_graphs_that_share_relayed_tasks_agree(c: Any, s: Any, *workers: Any) -> None:
    async with Worker(s.address, nthreads=1, resources={"pool-south": 1}):
        (small,) = pinned(NORTH, 100_000)
        big = pinned(SOUTH, 900_000, 6)
        sums = [
            delayed(length)(small, part, dask_key_name=f"sum-{i}") for i, part in enumerate(big)
        ]
        total = delayed(sum)(sums, dask_key_name="total")
        kept = c.persist(sums)
        assert await c.compute(total) == 6_000_000
        assert await c.gather(c.compute(kept)) == [1_000_000] * 6


@pooled(north=(1,), south=(1,))
async def test_a_placed_task_is_free_when_its_pool_is_lost(c: Any, s: Any, *workers: Any) -> None:
    big = c.submit(bytes, 9_000_000, workers=[w.address for w in workers], pure=False)
    await wait(big)
    home = next(w for w in workers if big.key in w.data)
    (other,) = (w for w in workers if w is not home)
    small = c.submit(bytes, 10, resources={f"pool-{pool_of(s, other.address)}": 0})
    await wait(small)
    event = c.submit(gate, "go", workers=[other.address])
    total = c.submit(length, big, small, event)
    while total.key not in s.tasks:
        await asyncio.sleep(0.01)
    assert is_placed(s.tasks[total.key])
    await home.close()
    await Event("go").set()
    assert await total == 9_000_010
    assert not is_placed(s.tasks[total.key])


@pooled(north=(1,), south=(1,))
async def test_a_pinned_task_waits_when_its_pool_is_lost(c: Any, s: Any, *workers: Any) -> None:
    await workers[0].close()
    future = c.submit(int, 3, resources={"pool-north": 0})
    while future.key not in s.tasks or s.tasks[future.key].state != "no-worker":
        await asyncio.sleep(0.01)
    async with Worker(s.address, nthreads=1, resources={"pool-north": 1}):
        assert await future == 3


@pooled(north=(1,), south=(1,))
async def test_waiting_tasks_are_placed_anew_when_sizes_differ(
    c: Any, s: Any, *workers: Any
) -> None:
    small, big = 10, 3_000_000
    wrong = delayed(Pinned(bytes, NORTH, small), pure=False)(big)
    right = delayed(Pinned(bytes, SOUTH, 1_000_000), pure=False)(1_000_000)
    with pinning(SOUTH):
        last = delayed(gate, pure=False)("go")
    future = c.compute(delayed(length)(wrong, right, last))
    while not s.tasks or any(task.state == "released" for task in s.tasks.values()):
        await asyncio.sleep(0.01)
    (waiting,) = [task for task in s.tasks.values() if task.state == "waiting"]
    placed_first = dict(waiting.resource_restrictions)
    while waiting.resource_restrictions == placed_first:
        await asyncio.sleep(0.01)
    await Event("go").set()
    assert await future == 4_000_000
    assert placed_first == {"pool-south": 0}
    assert waiting.resource_restrictions == {"pool-north": 0}


async def late_bytes(name: str, nbytes: int) -> bytes:
    await Event(name).wait()
    return bytes(nbytes)


@pooled(north=(1,), south=(1, 1))
async def test_a_relay_stays_with_those_who_need_it_when_tasks_are_placed_anew(
    c: Any, s: Any, north: Any, *south: Any
) -> None:
    late = delayed(Pinned(late_bytes, NORTH, 1_000_000), pure=False)("go", 1_000_000)
    wrong = delayed(Pinned(bytes, SOUTH, 10), pure=False)(3_000_000)
    big = [delayed(Pinned(bytes, SOUTH, 9_000_000), pure=False)(9_000_000) for _ in range(4)]
    futures = c.compute([delayed(length)(late, wrong, part) for part in big])
    expectations = s.plugins["fed-counters"].learner.expectations
    while not expectations._not_before:
        await asyncio.sleep(0.01)
    (relay,) = [task for key, task in s.tasks.items() if is_relay(key)]
    assert relay.state == "waiting"
    assert relay.resource_restrictions == {"pool-south": 0}
    await Event("go").set()
    assert await c.gather(futures) == [13_000_000] * 4
    sent = [key for entry in north.transfer_outgoing_log for key in entry["keys"]]
    assert len(sent) == 1


@pooled(north=(1, 1), south=(1, 1))
async def test_pinning_a_placed_task_later_makes_it_pinned(c: Any, s: Any, *workers: Any) -> None:
    big = c.submit(bytes, 1_000_000, resources={"pool-north": 0})
    kept = c.submit(length, big, key="later")
    await wait(kept)
    assert is_placed(s.tasks["later"])
    with pinning(NORTH):
        again = delayed(length)(big, dask_key_name="later")
    assert await c.compute(again) == 1_000_000


@pooled(north=(1, 1), south=(1, 1))
async def test_traffic_tells_what_crossed_beside_the_estimate(
    c: Any, s: Any, *workers: Any
) -> None:
    from fed.ledger import count_outgoing

    for worker in workers:
        count_outgoing(worker)
    big = c.submit(bytes, 1_000_000, resources={"pool-north": 0})
    small = c.submit(bytes, 100_000, resources={"pool-south": 0})
    await wait([big, small])
    assert await c.submit(length, big, small) == 1_100_000
    told = await fed.traffic(c)
    (crossed,) = told["crossed"]
    source, destination, nbytes = crossed
    assert (source, destination) == (SOUTH, NORTH)
    assert 100_000 <= nbytes < 101_000
    last = told["computations"][-1]
    assert [list(row) for row in last["estimated"]] == [[SOUTH, NORTH, nbytes]]


@pooled(north=(1,), south=(1,))
async def test_what_an_earlier_graph_will_make_counts(c: Any, s: Any, *workers: Any) -> None:
    with pinning(NORTH):
        late = delayed(gate, pure=False)("go")
        big = c.persist(delayed(length, pure=False)(late))
    while not s.tasks:
        await asyncio.sleep(0.01)
    total = c.compute(delayed(str)(big))
    while len(s.tasks) < 3:
        await asyncio.sleep(0.01)
    assert s.tasks[total.key].resource_restrictions == {"pool-north": 0}
    await Event("go").set()
    assert await total == "0"
