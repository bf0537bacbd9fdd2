"""Scheduler and worker processes: preloads, readiness, a pool that loses its last worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dask
import pytest
from distributed import Event

import fed
from fed import extension
from fed.worker import PRELOADED
from tests.python import federations, workloads

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

    from tests.python.federations import Cluster


def test_a_registered_worker_has_imported_everything(client: Client) -> None:
    def imported(dask_worker: Any) -> tuple[list[str], bool, dict[str, float]]:
        import gc
        import sys

        from fed.worker import PRELOADED

        modules = [name for name in PRELOADED if name in sys.modules]
        return modules, gc.isenabled(), dask_worker.state.total_resources

    for modules, collects, resources in client.run(imported).values():
        assert modules == list(PRELOADED)
        assert collects
        assert len([name for name in resources if name.startswith("pool-")]) == 1


def test_what_fewer_tasks_need_is_imported_soon(client: Client) -> None:
    def imported() -> bool:
        import sys

        from fed.worker import PRELOADED_LATER

        return all(name in sys.modules for name in PRELOADED_LATER)

    wait_until(lambda: all(client.run(imported).values()))


def test_a_worker_offers_its_pool_by_itself(fed_cluster: Cluster, client: Client) -> None:
    """FED_POOL alone is enough, without --resources; then the worker leaves again."""
    process = fed_cluster.start_worker("south", "south-2-9", resources=False)
    try:
        client.wait_for_workers(5, timeout=federations.PATIENCE)
        assert fed.stats()["workers_per_pool"] == {"north": 2, "south": 3}
    finally:
        process.kill()
        process.wait(federations.PATIENCE)
    wait_until(lambda: fed.stats()["workers_per_pool"] == {"north": 2, "south": 2})


def test_the_scheduler_does_not_start_without_what_it_needs(tmp_path: Path, data: Path) -> None:
    """Dask only logs what a preload raises, and would run on without pins."""
    cluster = federations.Cluster(tmp_path, data, with_fed=True)
    try:
        process = cluster.spawn(
            "scheduler",
            ["scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0",
             "--preload", "fed.scheduler"],
            FED_POOLS="not json",
        )  # fmt: skip
        assert process.wait(federations.PATIENCE) != 0
        assert "fed.scheduler: " in cluster.log("scheduler")
    finally:
        cluster.stop()


def test_pools_may_be_given_as_names_or_with_their_sites() -> None:
    text = '["one", {"name": "two", "site": "there"}, {"name": "three"}]'
    assert extension._sites(text) == {"one": "one", "two": "there", "three": "three"}


def test_a_pool_that_loses_its_last_worker_is_reported_at_once(tmp_path: Path, data: Path) -> None:
    with federations.running(tmp_path, data, with_fed=True) as cluster, cluster.client() as client:
        event = Event("never", client=client)
        held = client.map(
            workloads.pool_after, ["never"] * 5, pure=False, resources={"pool-south": 0}
        )
        other = client.submit(workloads.pool_here, resources={"pool-north": 0})
        assert other.result() == "north"
        assert "has no workers" not in cluster.log("scheduler")
        for process in cluster.processes[-federations.WORKERS_PER_POOL :]:  # those of the south
            process.kill()
        wait_until(lambda: "has no workers" in cluster.log("scheduler"))
        assert "pool 'south' of site 'site-south' has no workers: 5 tasks wait" in cluster.log(
            "scheduler"
        )
        assert "fed logs --only site-south" in cluster.log("scheduler")
        cluster.start_worker("south", "south-2-7")
        event.set()
        assert set(client.gather(held)) == {"south"}


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + federations.PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("it did not happen")
        time.sleep(0.02)


def test_each_repetition_of_a_computation_has_its_own_traffic(
    fed_cluster: Cluster, client: Client
) -> None:
    block = 500_000
    with fed.pool("north"):
        north = [dask.delayed(workloads.zeros)(block, number) for number in range(4)]
    with fed.pool("south"):
        south = [dask.delayed(workloads.zeros)(block, -number - 1) for number in range(4)]
    pairs = [dask.delayed(workloads.joined_size)(*pair) for pair in zip(north, south, strict=True)]

    def repeat(known: int) -> None:
        futures = client.compute(pairs)
        assert client.gather(futures) == [2 * block] * 4
        del futures
        wait_until(lambda: client.run_on_scheduler(workloads.count_tasks) == known)

    known = client.run_on_scheduler(workloads.count_tasks)
    for _ in range(3):
        repeat(known)
    # One that joins begins where the others are.
    process = fed_cluster.start_worker("north", "north-1-9")
    try:
        client.wait_for_workers(5, timeout=federations.PATIENCE)
        repeat(known)
        told = fed.traffic()["computations"][-4:]
    finally:
        process.kill()
        process.wait(federations.PATIENCE)
    wait_until(lambda: fed.stats()["workers_per_pool"] == {"north": 2, "south": 2})
    for computation in told:
        assert computation["tasks"] == len([*north, *south, *pairs])
        crossed = sum(nbytes for *_pools, nbytes in computation["crossed"])
        assert 4 * block <= crossed < 4.1 * block
