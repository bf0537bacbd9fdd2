"""Fuses tasks of one pool that follow one another into one task, once they are placed.

Dask fuses before anything is placed, and would make one task of reads in several pools: on a
scheduler with fed's extension it does not. Without any fusion a chunk that is read and reduced at
once would be two tasks, and the whole chunk an output that waits in memory for the second.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fed import _dask_private as dask_private
from fed.names import PLACED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def fuse_chains(arrival: dask_private.Arrival, known: Collection[Any]) -> set[Any]:
    """Fuse each task with the only one that needs it, if that needs nothing else.

    Both must be bound to the same pool, or the second be free, and alike in all else that their
    layers are annotated with. The task that is left has the key of the last; it is pinned if any of
    them is.

    Parameters
    ----------
    arrival
        A graph whose tasks are placed; changed.
    known
        Keys of tasks that the scheduler has already: these stay as they are.

    Returns
    -------
    set
        Keys that are no tasks any more.
    """
    graph = arrival.graph
    users = Counter(source for node in graph.values() for source in node.dependencies)
    kept = {*arrival.keys, *arrival.actors}
    shuffled = _of_shuffles(graph)
    before = {}
    for key, node in graph.items():
        if len(node.dependencies) != 1 or key in known or key in arrival.actors:
            continue
        (source,) = node.dependencies
        if users[source] != 1 or source not in graph or source in known or source in kept:
            continue
        if shuffled & {source, key}:
            continue
        if _may_join(graph[source], node) and _are_alike(arrival.by_type, source, key):
            before[key] = source
    gone = set(before.values())
    for last in before.keys() - gone:
        _fuse(arrival, _chain(before, last))
    return gone


def _of_shuffles(graph: Mapping[Any, Any]) -> set[Any]:
    """Return the keys of barriers, and of the tasks before and after them."""
    barriers = {key for key, node in graph.items() if dask_private.is_barrier(node)}
    if not barriers:
        return barriers
    before = {source for key in barriers for source in graph[key].dependencies}
    after = {key for key, node in graph.items() if not barriers.isdisjoint(node.dependencies)}
    return barriers | before | after


def _may_join(*nodes: Any) -> bool:
    """Tell whether two nodes are tasks of a collection that may be one."""
    if not all(type(node.key) is tuple for node in nodes):
        return False  # of `delayed` or `submit`, whose tasks are as their author has cut them
    return not any(dask_private.blocks_fusion(node) for node in nodes)


def _are_alike(by_type: Mapping[str, Mapping[Any, Any]], source: Any, key: Any) -> bool:
    resources = by_type.get("resources", {})
    # Whatever is free runs beside its only input just as well.
    if not resources.get(source) or resources.get(key) not in (None, {}, resources[source]):
        return False
    others = (values for kind, values in by_type.items() if kind not in {PLACED, "resources"})
    return all(values.get(source) == values.get(key) for values in others)


def _chain(before: Mapping[Any, Any], last: Any) -> list[Any]:
    chain = [last]
    while chain[-1] in before:
        chain.append(before[chain[-1]])
    return chain[::-1]


def _fuse(arrival: dask_private.Arrival, chain: list[Any]) -> None:
    first, last = chain[0], chain[-1]
    arrival.graph[last] = dask_private.fuse([arrival.graph[key] for key in chain])
    resources = arrival.by_type["resources"]
    placed = arrival.by_type.get(PLACED, {})
    is_advice = all(key in placed for key in chain if resources.get(key))
    resources[last] = resources[first]
    if is_advice:
        placed[last] = placed[first]
    else:
        placed.pop(last, None)
    for key in chain[:-1]:
        del arrival.graph[key]
        arrival.order.pop(key, None)
        for values in arrival.by_type.values():
            values.pop(key, None)
