"""Turns a graph into the arrays that `fed._fed.place` takes, and its answer into pools of tasks.

Nothing here knows the scheduler: who needs to know what exists already says so in `Facts`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fed import _dask_private as dask_private
from fed._native import _fed
from fed.sizes import takes_item

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from fed.sizes import Estimator

SLACK = 4096.0
"""Bytes that a free task may cost more in the wrong pool: less than a round trip is worth."""


SHARDS_OF_TABLES = 1.5
"""Bytes of the shards of a table for each byte of it: Dask adds the index and the number of the
partition to every row. So a table that is shuffled abroad crosses before it is cut into shards."""


@dataclass(frozen=True)
class Facts:
    """What binds the placement of a graph's tasks."""

    pools: Sequence[str]
    """All pools: bit ``i`` of a mask stands for the ``i``-th."""
    pins: Mapping[Any, str]
    """Pool by key."""
    allowed: Mapping[Any, Collection[str]]
    """Pools by key, for tasks that something other than a pin keeps to some pools."""
    present: Mapping[Any, Collection[str]]
    """Pools that hold a task's output already, by key; may be empty."""
    present_bytes: Mapping[Any, int]
    """Bytes of those outputs."""
    costs: Sequence[Sequence[float]]
    threads: Sequence[int]
    passing: Mapping[Any, int] = field(default_factory=dict)
    """Bytes that pass the barriers of peer-to-peer shuffles, by key, where they were estimated."""


@dataclass
class Plan:
    """Where the tasks of a graph are to run."""

    pools: Sequence[str]
    keys: list[Any]
    """Every task, inputs before those that need them where the order given was so."""
    index: dict[Any, int]
    nbytes: array[int]
    """Estimated bytes of each output."""
    indptr: array[int]
    indices: array[int]
    chosen: list[int]
    """Number of each task's pool, or -1."""
    reasons: bytes
    crossing: list[list[int]]
    """Bytes that will cross, ``crossing[source][destination]``."""
    present: array[int]
    """Pools that hold each output already, as bits."""
    barriers: list[Any]
    """Keys of the barriers of peer-to-peer shuffles."""
    fused: set[Any] = field(default_factory=set)
    """Keys that became part of another task afterwards."""

    def pool_of(self, key: Any) -> str | None:
        """Return the pool of a task, or None where any will do."""
        number = self.chosen[self.index[key]]
        return None if number < 0 else self.pools[number]

    def holds(self, number: int, pool: int) -> bool:
        """Tell whether a pool holds the output of a task already."""
        return bool(self.present[number] >> pool & 1)

    def inputs(self, number: int) -> array[int]:
        """Return the numbers of a task's inputs."""
        return self.indices[self.indptr[number] : self.indptr[number + 1]]


def make_plan(
    graph: Mapping[Any, Any], order: Mapping[Any, Any], estimator: Estimator, facts: Facts
) -> Plan:
    """Choose a pool for every task of a graph.

    Parameters
    ----------
    graph
        Nodes by key. Inputs that are not in it have to be ``present``.
    order
        A number by key, smaller for inputs than for what is made of them.
    estimator
        Gives the bytes of outputs.
    facts
        What binds the placement.
    """
    keys = [*facts.present, *sorted(graph.keys() - facts.present.keys(), key=_rank(order))]
    index = {key: number for number, key in enumerate(keys)}
    nbytes, indptr, indices = _measure(keys, index, graph, estimator, facts)
    bit = {pool: 1 << number for number, pool in enumerate(facts.pools)}
    allowed = array("Q", bytes(8 * len(keys)))
    present = array("Q", bytes(8 * len(keys)))
    for key, pools in facts.allowed.items():
        if key in index:
            allowed[index[key]] = sum(bit[pool] for pool in pools)
    for key, pool in facts.pins.items():
        if key in index and key not in facts.present:
            allowed[index[key]] = bit[pool]
    for key, pools in facts.present.items():
        present[index[key]] = sum(bit[pool] for pool in pools)
    answer = _fed.place(
        nbytes,
        indptr,
        indices,
        allowed,
        facts.costs,
        facts.threads,
        present=present,
        surcharge=0.0,
        slack=SLACK,
    )
    plan = Plan(
        facts.pools,
        keys,
        index,
        nbytes,
        indptr,
        indices,
        answer.pools,
        answer.reasons,
        answer.crossing_bytes,
        present,
        [key for key, node in graph.items() if key in index and dask_private.is_barrier(node)],
    )
    _align_shuffles(plan)
    return plan


def _rank(order: Mapping[Any, Any]) -> Any:
    return order.__getitem__


def _measure(
    keys: list[Any],
    index: Mapping[Any, int],
    graph: Mapping[Any, Any],
    estimator: Estimator,
    facts: Facts,
) -> tuple[array[int], array[int], array[int]]:
    """Return the bytes of outputs, and the dependencies in compressed sparse rows."""
    nbytes = array("Q")
    indptr = array("I", [0])
    indices = array("I")
    for key in keys:
        if key in facts.present:
            nbytes.append(facts.present_bytes[key])
            indptr.append(len(indices))
            continue
        node = graph[key]
        inputs = [index[other] for other in node.dependencies if other in index]
        sizes = [nbytes[number] for number in inputs if number < len(nbytes)]
        if dask_private.is_barrier(node):
            # What a shuffle moves does not pass the scheduler: its inputs go to wherever the
            # barrier is placed, and its outputs, which are placed with it, take all of it.
            nbytes.append(sum(sizes))
            for number in inputs:
                first, last = indptr[number], indptr[number + 1]
                moved = sum(nbytes[source] for source in indices[first:last])
                if not dask_private.is_rechunk(keys[number]):
                    moved = int(moved * SHARDS_OF_TABLES)
                nbytes[-1] += moved - nbytes[number]
                nbytes[number] = moved
            # Of inputs that have come, nothing is left to tell by.
            nbytes[-1] = max(nbytes[-1], facts.passing.get(key, 0))
        else:
            nbytes.append(estimator.nbytes(key, node, sizes))
            if len(sizes) == 1 and inputs[0] >= len(facts.present) and takes_item(node):
                # Nobody returns a tuple of one. The others may be of no use, and not in the graph.
                nbytes[inputs[0]] = max(nbytes[inputs[0]], 2 * nbytes[-1])
        indices.extend(inputs)
        indptr.append(len(indices))
    return nbytes, indptr, indices


def _align_shuffles(plan: Plan) -> None:
    """Give the outputs of every peer-to-peer shuffle one pool, and its barrier the same.

    Which worker puts which output together is decided once for all of them.
    """
    if not plan.barriers:
        return
    numbers = {plan.index[key] for key in plan.barriers}
    outputs: dict[int, list[int]] = {number: [] for number in numbers}
    for number in range(len(plan.keys)):
        for source in plan.inputs(number):
            if source in numbers:
                outputs[source].append(number)
    for group in _joined(outputs):
        members = [number for barrier in group for number in outputs[barrier]]
        chosen = [plan.chosen[number] for number in (*members, *group)]
        pool = max(sorted(set(chosen)), key=chosen.count)
        for number in (*members, *group):
            plan.chosen[number] = pool


def _joined(outputs: Mapping[int, list[int]]) -> list[list[int]]:
    """Group the barriers that share outputs, as the two of a join do."""
    groups: list[list[int]] = []
    seen: dict[int, list[int]] = {}
    for barrier, members in outputs.items():
        shared = next((seen[number] for number in members if number in seen), None)
        if shared is None:
            shared = []
            groups.append(shared)
        shared.append(barrier)
        seen.update(dict.fromkeys(members, shared))
    return groups
