"""Relays: an output that several workers of another pool need crosses to that pool once.

A relay is a task of the receiving pool that returns its only input. Those that need the input
there are made to depend on the relay instead, so that one worker fetches it from abroad and the
others from that worker.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, TypeVar

from fed import _dask_private as dask_private

if TYPE_CHECKING:
    from collections.abc import Collection

    from fed.planning import Plan

T = TypeVar("T")

SMALLEST = 16 << 10
"""Bytes below which fetching twice costs less than one more task."""

PREFIX = "fed-relay"


def relay(value: T) -> T:
    """Return the input: what a relay runs."""
    return value


def is_relay(key: object) -> bool:
    """Tell whether a key is a relay's."""
    name = key[0] if isinstance(key, tuple) and key else key
    return isinstance(name, str) and name.startswith(PREFIX)


def relay_key(key: Any, pool: str) -> Any:
    """Return the key of the relay of an output in a pool."""
    if isinstance(key, tuple) and key and isinstance(key[0], str):
        return (f"{PREFIX}-{pool}-{key[0]}", *key[1:])
    return f"{PREFIX}-{pool}-{key}"


def gather_free(plan: Plan, *, crowded: Collection[str], mine: Collection[Any]) -> None:
    """Bind free tasks whose outputs several tasks of one pool need to that pool.

    It costs as much to bring there what they need as what they return, but what they need is
    fetched once, and what they return as often as there are workers.

    Parameters
    ----------
    plan
        Where the tasks are to run; changed.
    crowded
        Pools of more than one worker.
    mine
        Keys of tasks that may be bound.
    """
    users: dict[int, list[int]] = {
        number: []
        for number, here in enumerate(plan.chosen)
        if here < 0 and plan.nbytes[number] >= SMALLEST and plan.keys[number] in mine
    }
    if not users:
        return
    for number in range(len(plan.keys)):
        for source in plan.inputs(number):
            if source in users:
                users[source].append(number)
    # Those that need others first, so that what is bound binds its inputs.
    for number, needing in reversed(users.items()):
        pools = {plan.chosen[user] for user in needing}
        if len(needing) > 1 and len(pools) == 1:
            (pool,) = pools
            if pool >= 0 and plan.pools[pool] in crowded:
                plan.chosen[number] = pool


def insert_relays(
    graph: dict[Any, Any],
    order: dict[Any, Any],
    plan: Plan,
    *,
    crowded: Collection[str],
    mine: Collection[Any],
) -> dict[Any, str]:
    """Insert relays where at least two tasks of a pool need the same output of another.

    Parameters
    ----------
    graph, order
        Nodes and numbers by key; changed.
    plan
        Where the tasks are to run.
    crowded
        Pools of more than one worker: in others nothing is fetched twice.
    mine
        Keys of tasks that may be made to depend on something else: those that are new.

    Returns
    -------
    dict
        Pool of each relay by its key.
    """
    relays = {}
    for (number, pool), consumers in _crossings(graph, plan, crowded, mine).items():
        if len(consumers) < 2:  # noqa: PLR2004
            continue
        source = plan.keys[number]
        key = relay_key(source, pool)
        if key in graph:
            continue
        graph[key] = dask_private.Task(key, relay, dask_private.TaskRef(source))
        order[key] = min(order.get(consumer, 0) for consumer in consumers) - 0.5
        for consumer in consumers:
            graph[consumer] = graph[consumer].substitute({source: key})
        relays[key] = pool
    return relays


def _crossings(
    graph: dict[Any, Any], plan: Plan, crowded: Collection[str], mine: Collection[Any]
) -> dict[tuple[int, str], list[Any]]:
    """Return the consumers of every output in every pool that it has to be brought to."""
    found: dict[tuple[int, str], list[Any]] = defaultdict(list)
    for number, here in enumerate(plan.chosen):
        key = plan.keys[number]
        if here < 0 or key not in mine or plan.pools[here] not in crowded:
            continue
        if dask_private.is_barrier(graph[key]):
            continue  # a shuffle knows its tasks by their keys
        for source in plan.inputs(number):
            there = plan.chosen[source]
            if there in (here, -1) or plan.nbytes[source] < SMALLEST:
                continue
            if plan.holds(source, here) or dask_private.is_barrier(graph.get(plan.keys[source])):
                continue
            found[source, plan.pools[here]].append(key)
    return found
