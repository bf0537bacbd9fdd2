"""The links between pools, as they are measured on Dask's own connections."""

from __future__ import annotations

from typing import Any

from fed.links import DEFAULT_THROUGHPUT, Links
from fed.probing import ECHO, LARGE, PROBE, RECENT, Prober, Transfers, answer_probes
from tests.python.inprocess import NORTH, SOUTH, pooled


async def probing(scheduler: Any, *workers: Any) -> Prober:
    """Do to workers of this process what `fed.worker` does, and measure once."""
    prober: Prober = scheduler.plugins[Prober.name]
    await prober.probe()
    for worker in workers:
        answer_probes(worker)
        prober.add_worker(scheduler, worker.address)
    await prober.probe()
    return prober


@pooled(north=(1, 1), south=(1,))
async def test_round_trips_and_throughput_are_measured(c: Any, s: Any, *workers: Any) -> None:
    prober = await probing(s, *workers)
    links: Links = prober.links
    assert 0 < links.rtt_of(NORTH) < 10
    assert 0 < links.rtt_of(SOUTH) < 10
    assert 0 < links.rtt(SOUTH, NORTH) < 10
    assert links.throughput(NORTH, SOUTH) == DEFAULT_THROUGHPUT
    source = c.submit(bytes, 2 * LARGE, resources={"pool-north": 0}, pure=False)
    assert await c.submit(len, source, resources={"pool-south": 0}, pure=False) == 2 * LARGE
    await prober.probe()
    (entry,) = [e for e in links.entries() if (e["source"], e["destination"]) == (NORTH, SOUTH)]
    assert entry["throughput"] > 0


@pooled(north=(1,), south=(1,))
async def test_a_worker_that_does_not_answer_leaves_the_table_as_it_is(
    c: Any, s: Any, north: Any, south: Any
) -> None:
    prober = await probing(s, north, south)
    known = prober.links.entries()
    assert known
    for worker in (north, south):
        del worker.handlers[ECHO], worker.handlers[PROBE]
    await prober.probe()
    assert prober.links.entries() == known


def test_throughput_is_the_most_of_recent_large_transfers() -> None:
    transfers = Transfers()
    transfers.note("a", LARGE, 1.0)
    transfers.note("a", LARGE - 1, 0.001)
    transfers.note("b", LARGE, 2.0)
    assert transfers.rates() == {"a": LARGE, "b": LARGE / 2}
    for _ in range(RECENT):
        transfers.note("a", LARGE, 4.0)
    assert transfers.rates()["a"] == LARGE / 4
