"""Submitted graphs: pins settled from markers and annotations, conflicts and stale keys refused."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dask
import pytest
from dask._task_spec import Alias, DataNode, Task, TaskRef
from distributed import Event, Future, futures_of, wait

import fed
from fed.names import ANNOTATION
from fed.pins import Pinned, find_pools
from fed.submission import Submission
from tests.python import openers, workloads
from tests.python.federations import POOLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

    from tests.python.federations import Cluster

NORTH, SOUTH = POOLS


def settle(
    nodes: dict[str, Any],
    by_type: dict[str, Any] | None = None,
    common: dict[str, Any] | None = None,
    known: tuple[str, ...] = (),
) -> Submission:
    submission = Submission(nodes, by_type or {}, common or {})
    submission.settle(known)
    return submission


def task(key: str = "k", pool: str | None = None) -> Task:
    return Task(key, Pinned(int, pool) if pool else int, "3")


@pytest.mark.parametrize("given", [{"k": {"pool-north": 1}}, {"k": {"pool-north": 0}}])
def test_any_amount_becomes_zero_and_the_task_is_marked(given: dict[str, Any]) -> None:
    submission = settle({"k": task()}, {"resources": given})
    assert submission.by_type == {"resources": {"k": {"pool-north": 0}}}
    assert find_pools(submission.graph["k"]) == {NORTH}


def test_a_marker_alone_is_enough() -> None:
    submission = settle({"k": task(pool=SOUTH), "plain": task("plain")})
    assert submission.by_type == {"resources": {"k": {"pool-south": 0}}}
    assert submission.pins == {"k": SOUTH}


def test_other_resources_are_kept() -> None:
    submission = settle(
        {"k": task(), "plain": task("plain")},
        {"resources": {"k": {"GPU": 2, "pool-north": 1}}, "priority": {"k": 5}},
        {"resources": {"MEMORY": 1}, "retries": 2},
    )
    assert submission.by_type == {
        "priority": {"k": 5},
        "resources": {"k": {"GPU": 2, "pool-north": 0}, "plain": {"MEMORY": 1}},
    }
    assert submission.common == {"retries": 2}


def test_a_submissions_pool_is_for_tasks_without_one() -> None:
    submission = settle(
        {"mine": task("mine", SOUTH), "lifted": task("lifted"), "other": task("other")},
        {ANNOTATION: {"lifted": None}},
        {"resources": lambda _key: {"pool-north": 1}, ANNOTATION: NORTH},
    )
    assert submission.pins == {"mine": SOUTH, "other": NORTH}


def test_aliases_are_restricted_but_not_marked() -> None:
    nodes = {"a": Alias("a", "b"), "b": DataNode("b", 1)}
    submission = settle(nodes, {ANNOTATION: {"a": NORTH, "b": NORTH}})
    assert submission.pins == {"a": NORTH, "b": NORTH}
    assert submission.graph["a"] is nodes["a"]
    assert find_pools(submission.graph["b"]) == {NORTH}


@pytest.mark.parametrize(
    ("node", "by_type"),
    [
        (task(pool=NORTH), {"resources": {"k": {"pool-south": 1}}}),
        (task(pool=NORTH), {ANNOTATION: {"k": SOUTH}}),
        (task(), {"resources": {"k": {"pool-north": 0, "pool-south": 0}}}),
        (Task("k", Pinned(int, SOUTH), Task(None, Pinned(int, NORTH), "3")), {}),
        (
            Task.fuse(
                Task("a", Pinned(int, NORTH), "3"), Task("k", Pinned(int, SOUTH), TaskRef("a"))
            ),
            {},
        ),
    ],
)
def test_two_claims_are_refused_with_both_names(node: Task, by_type: dict[str, Any]) -> None:
    with pytest.raises(fed.PoolConflictError, match="'north' and 'south'") as caught:
        settle({"k": node}, by_type)
    assert caught.value.task == "k"
    assert caught.value.pools == (NORTH, SOUTH)


def test_the_nearest_pool_is_suggested() -> None:
    with pytest.raises(fed.UnknownPoolError, match=r"Did you mean 'north'\?.*north, south"):
        settle({"k": task(pool="nroth")}, known=POOLS)


def test_a_conflict_reaches_the_client_and_nothing_runs(client: Client) -> None:
    with fed.pool(NORTH):
        lazy = dask.delayed(int, pure=True)("3")
    with pytest.raises(fed.PoolConflictError, match="'north' and 'south'"):
        client.submit(int, "3", resources={"pool-north": 0, "pool-south": 0}, pure=False).result()
    with fed.pool(NORTH), pytest.raises(fed.PoolConflictError):
        client.submit(int, "3", resources={"pool-south": 1}, pure=False).result()
    assert lazy.compute() == 3  # the scheduler goes on


def test_workers_of_another_pool_are_refused_at_submission(client: Client) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"]
    address = {info["name"]: address for address, info in workers.items()}
    for asked in (address["south-2-0"], "south-2-0"):
        with fed.pool(NORTH), pytest.raises(fed.PoolConflictError) as caught:
            client.submit(int, "3", workers=[asked], pure=False).result(timeout=60)
        assert f"pinned to pool 'north', and restricted to workers {asked} of" in str(caught.value)
    with fed.pool(NORTH):
        future = client.submit(int, "3", workers=["south-2-0", "north-1-0"], pure=False)
    assert future.result(timeout=60) == 3


def test_an_unknown_pool_is_refused_at_submission(client: Client) -> None:
    with fed.pool("suoth"):
        lazy = dask.delayed(int)("3")
    with pytest.raises(fed.UnknownPoolError, match="Did you mean 'south'"):
        lazy.compute()


def test_an_amount_does_not_serialise(client: Client) -> None:
    """Each worker offers 1, so tasks that ask for 1 would run one at a time."""
    future = client.submit(int, "3", resources={"pool-north": 1}, pure=False)
    wait(future)
    assert restrictions(client, [future.key]) == [{"pool-north": 0}]


def test_an_array_pinned_later_is_another_array(client: Client) -> None:
    kept = openers.array().persist()  # its futures live on
    wait(kept)
    with fed.pool(NORTH):
        pinned = openers.array()
    assert openers.pools_seen(pinned) == {NORTH}
    assert len(futures_of(kept)) == 4


@pytest.fixture
def second_client(fed_cluster: Cluster) -> Iterator[Client]:
    """Another notebook. (One client does not submit a key again that it still holds.)"""
    with fed_cluster.client(set_as_default=False) as second:
        yield second


def test_a_key_that_ran_elsewhere_cannot_be_pinned_later(
    client: Client, second_client: Client
) -> None:
    first = client.submit(
        workloads.pool_here, key="ran-before", resources={"pool-south": 0}, pure=False
    )
    assert first.result() == SOUTH
    client.run_on_scheduler(workloads.forget_pin, key="ran-before")
    with pytest.raises(fed.StalePinError, match=r"pinned to pool 'north'.*ran in south"):
        second_client.submit(
            workloads.pool_here, key="ran-before", resources={"pool-north": 0}
        ).result()


def test_a_key_that_another_pool_has_cannot_be_pinned_here(
    client: Client, second_client: Client
) -> None:
    first = client.submit(workloads.pool_here, key="theirs", resources={"pool-south": 0})
    assert first.result() == SOUTH
    with pytest.raises(fed.PoolConflictError, match="'north' and 'south'"):
        second_client.submit(
            workloads.pool_here, key="theirs", resources={"pool-north": 0}
        ).result()
    assert restrictions(client, ["theirs"]) == [{"pool-south": 0}]


def states(client: Client, keys: list[str]) -> set[str]:
    return set(client.run_on_scheduler(workloads.states_of, keys=keys))


def restrictions(client: Client, keys: list[str]) -> list[dict[str, float]]:
    found: list[dict[str, float]] = client.run_on_scheduler(workloads.restrictions_of, keys=keys)
    return found


def wait_for_states(client: Client, keys: list[str], wanted: set[str]) -> None:
    deadline = time.monotonic() + 60
    while (seen := states(client, keys)) != wanted:
        assert time.monotonic() < deadline, f"{seen} instead of {wanted}"
        time.sleep(0.01)


@pytest.fixture
def held_workers(client: Client) -> Iterator[list[Future]]:
    """Keep every worker busy until the list is emptied of the tasks that hold them."""
    event = Event("hold-the-workers", client=client)
    event.clear()
    holders = client.map(workloads.pool_after, ["hold-the-workers"] * 8, pure=False)
    try:
        yield holders
    finally:
        event.set()
        client.gather(holders)


def test_queued_and_waiting_tasks_take_a_later_pin(
    client: Client, second_client: Client, held_workers: list[Future]
) -> None:
    queued = [f"queued-{index}" for index in range(20)]
    keys = [*queued, "waiting"]
    wanted = {"pool-south": 1}

    def submit(by: Client, **kwargs: Any) -> list[Future]:
        holder = Future(held_workers[0].key, by)
        last = by.submit(workloads.pool_of_nothing, holder, key="waiting", **kwargs)
        return [*by.map(workloads.pool_of_nothing, range(20), key=queued, **kwargs), last]

    first = submit(client)
    wait_for_states(client, keys, {"waiting", "queued"})
    second = submit(second_client, resources=wanted)
    wait_for_restrictions(client, keys)
    Event("hold-the-workers", client=client).set()
    assert set(client.gather(first)) == set(second_client.gather(second)) == {SOUTH}


def wait_for_restrictions(client: Client, keys: list[str]) -> None:
    deadline = time.monotonic() + 60
    while any(found != {"pool-south": 0} for found in restrictions(client, keys)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tasks_are_counted_by_pool_and_site(client: Client) -> None:
    before = fed.stats()
    client.gather(client.map(int, range(5), resources={"pool-south": 0}, pure=False))
    after = fed.stats()
    assert after["tasks_per_pool"][SOUTH] - before["tasks_per_pool"].get(SOUTH, 0) == 5
    site = f"site-{SOUTH}"
    assert after["tasks_per_site"][site] - before["tasks_per_site"].get(site, 0) == 5
    assert after["workers_per_pool"] == {NORTH: 2, SOUTH: 2}
