"""Nothing moves data out of its pool by itself: retiring, rebalancing, replicating, dropping."""

from __future__ import annotations

from typing import Any

from distributed import wait

from tests.python.inprocess import NORTH, SOUTH, pool_of, pooled, pools_holding


def home(futures: list[Any], scheduler: Any, pool: str) -> bool:
    return all(pools_holding(scheduler, future.key) == {pool} for future in futures)


@pooled(north=(1, 1), south=(1, 1))
async def test_a_retiring_worker_leaves_its_data_in_its_pool(c: Any, s: Any, *workers: Any) -> None:
    futures = c.map(bytes, [1000] * 12, pure=False, resources={"pool-north": 0})
    await wait(futures)
    await s.retire_workers(workers=[workers[0].address])
    assert home(futures, s, NORTH)


@pooled(north=(1,), south=(1, 1))
async def test_data_goes_abroad_with_the_last_worker_of_a_pool(
    c: Any, s: Any, *workers: Any
) -> None:
    futures = c.map(bytes, [1000] * 6, pure=False, resources={"pool-north": 0})
    await wait(futures)
    await s.retire_workers(workers=[workers[0].address])
    assert home(futures, s, SOUTH)
    assert await c.gather(futures) == [bytes(1000)] * 6


@pooled(north=(1, 1), south=(1, 1))
async def test_rebalancing_stays_within_pools(c: Any, s: Any, *workers: Any) -> None:
    first = workers[0].address
    futures = c.map(bytes, [10_000_000] * 10, pure=False, workers=[first])
    await wait(futures)
    await c.rebalance()
    assert home(futures, s, NORTH)
    assert any(first not in {w.address for w in s.tasks[f.key].who_has} for f in futures)


@pooled(north=(1, 1), south=(1, 1))
async def test_replicas_are_made_in_the_same_pool(c: Any, s: Any, *workers: Any) -> None:
    there = c.map(bytes, [1000] * 4, pure=False, resources={"pool-south": 0})
    here = c.map(bytes, [1000] * 4, pure=False, resources={"pool-north": 0})
    await wait([*here, *there])
    await c.replicate([*here, *there])
    assert home(there, s, SOUTH)
    assert home(here, s, NORTH)
    assert all(len(s.tasks[future.key].who_has) == 2 for future in [*here, *there])


@pooled(north=(1,), south=(1,))
async def test_workers_that_a_client_names_get_their_replica(c: Any, s: Any, *workers: Any) -> None:
    future = c.submit(bytes, 1000, resources={"pool-north": 0})
    await wait(future)
    await c.replicate([future], workers=[worker.address for worker in workers])
    assert pools_holding(s, future.key) == {NORTH, SOUTH}
    # What is in excess is dropped abroad, however full the workers are.
    s.extensions["amm"].run_once()
    while len(s.tasks[future.key].who_has) > 1:
        await c.run(int)
    assert pools_holding(s, future.key) == {NORTH}


@pooled(north=(1, 1), south=(1, 1))
async def test_an_input_is_fetched_from_the_own_pool(c: Any, s: Any, *workers: Any) -> None:
    future = c.submit(bytes, 50_000, workers=[workers[0].address])
    await wait(future)
    await c.replicate([future], workers=[workers[0].address, workers[2].address])
    copies = [c.submit(len, future, pure=False, workers=[workers[3].address]) for _ in range(3)]
    assert await c.gather(copies) == [50_000] * 3
    assert {pool_of(s, entry["who"]) for entry in workers[3].transfer_incoming_log} == {SOUTH}
