"""The fewest bytes that can cross between pools for a graph that has run, by scipy alone.

A producer's bytes count once per pool that they are brought to. Two pools: the minimum cut, as a
maximum flow. More: the multiway cut, as a mixed-integer programme. Nothing of fed is used.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import LinearConstraint, milp
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

BARRIER = "shuffle-barrier-"
RELAY = "fed-relay"
_NEVER = 2**31 - 1
"""Capacity of what must not be cut: scipy counts flow in 32 bits."""


@dataclass(frozen=True)
class Ran:
    """A task that has run."""

    nbytes: int
    """Of its output, as measured."""
    inputs: tuple[Any, ...]
    pool: str | None
    """The pool that its data binds it to."""


@dataclass
class Graph:
    """Tasks, and outputs that may have to be brought from pool to pool."""

    pins: dict[Any, str] = field(default_factory=dict)
    outputs: list[tuple[Any, int, frozenset[Any]]] = field(default_factory=list)
    """Producer, bytes and consumers of each."""

    @classmethod
    def of(cls, ran: Mapping[Any, Ran], shards: Mapping[Any, int]) -> Graph:
        """Build it from tasks by key, and the bytes that passed each barrier.

        A relay is taken for its input. The barrier of a peer-to-peer shuffle is replaced by what
        passes it: an equal share of each input to each output.
        """
        graph = cls()
        consumers: defaultdict[Any, set[Any]] = defaultdict(set)
        for key, task in ran.items():
            if task.pool is not None:
                graph.pins[key] = task.pool
            if not _is(key, RELAY):
                for source in task.inputs:
                    consumers[_unrelayed(source, ran)].add(key)
        for key, users in consumers.items():
            if _is(key, BARRIER):
                graph._add_shards(key, shards[key], users, ran)
            elif key in ran:
                graph.outputs.append((key, ran[key].nbytes, frozenset(users)))
        return graph

    def _add_shards(
        self, barrier: Any, nbytes: int, outputs: Collection[Any], ran: Mapping[Any, Ran]
    ) -> None:
        senders = [_unrelayed(key, ran) for key in ran[barrier].inputs]
        read = {
            sender: sum(ran[source].nbytes for source in ran[sender].inputs if source in ran)
            for sender in senders
        }
        whole = sum(read.values())
        for sender, size in read.items():
            share = round(nbytes * size / whole / len(outputs))
            self.outputs.extend((sender, share, frozenset((output,))) for output in outputs)


def minimum(
    ran: Mapping[Any, Ran], pools: Sequence[str], shards: Mapping[Any, int] | None = None
) -> int:
    """Return the fewest bytes that have to cross between pools.

    Parameters
    ----------
    ran
        Every task, by key.
    pools
        The pools.
    shards
        Bytes of all shards of each peer-to-peer shuffle, by the key of its barrier.
    """
    graph = Graph.of(ran, shards or {})
    return _minimum_cut(graph, *pools) if len(pools) == 2 else _multiway_cut(graph, pools)


def _is(key: Any, prefix: str) -> bool:
    name = key[0] if isinstance(key, tuple) else key
    return str(name).startswith(prefix)


def _unrelayed(key: Any, ran: Mapping[Any, Ran]) -> Any:
    while _is(key, RELAY) and key in ran:
        (key,) = ran[key].inputs
    return key


def _minimum_cut(graph: Graph, source: str, sink: str) -> int:
    numbers: dict[Any, int] = {}
    terminals = {source: 0, sink: 1}

    def node(key: Any) -> int:
        if key in graph.pins:
            return terminals[graph.pins[key]]
        return numbers.setdefault(key, 2 + len(numbers))

    capacities: defaultdict[tuple[int, int], int] = defaultdict(int)

    def limit(tail: int, head: int, nbytes: int) -> None:
        if tail != head:
            capacities[tail, head] = min(capacities[tail, head] + nbytes, _NEVER)

    for number, (producer, nbytes, users) in enumerate(graph.outputs):
        forth, back = node(("forth", number, None)), node(("back", number, None))
        limit(node(producer), forth, nbytes)
        limit(back, node(producer), nbytes)
        for user in users:
            limit(forth, node(user), _NEVER)
            limit(node(user), back, _NEVER)
    tails, heads = zip(*capacities, strict=True)
    values = np.fromiter(capacities.values(), dtype=np.int32)
    size = 2 + len(numbers)
    return int(maximum_flow(csr_array((values, (tails, heads)), (size, size)), 0, 1).flow_value)


def _multiway_cut(graph: Graph, pools: Sequence[str]) -> int:
    """Choose 0 or 1 for each task and pool; an output crosses to where it is needed, not made."""
    columns: dict[tuple[Any, str], int] = {}
    lower: list[float] = []
    upper: list[float] = []
    tasks = dict.fromkeys(key for producer, _, users in graph.outputs for key in (producer, *users))
    for key in tasks:
        for pool in pools:
            pin = graph.pins.get(key)
            columns[key, pool] = len(columns)
            lower.append(float(pin == pool))
            upper.append(float(pin in (None, pool)))
    rows: list[tuple[dict[int, float], float, float]] = [
        ({columns[key, pool]: 1.0 for pool in pools}, 1.0, 1.0) for key in tasks
    ]
    cost = [0.0] * len(columns)
    for producer, nbytes, users in graph.outputs:
        for pool in pools:
            crosses = len(cost)
            cost.append(float(nbytes))
            lower.append(0.0)
            upper.append(1.0)
            rows.extend(
                ({crosses: 1.0, columns[producer, pool]: 1.0, columns[user, pool]: -1.0}, 0.0, 2.0)
                for user in users
                if user != producer
            )
    entries = [(row, column, value) for row, (terms, *_) in enumerate(rows)
               for column, value in terms.items()]  # fmt: skip
    at, columns_at, values = zip(*entries, strict=True)
    matrix = csr_array((values, (at, columns_at)), (len(rows), len(cost)))
    is_whole = np.zeros(len(cost))
    is_whole[: len(columns)] = 1
    answer = milp(
        cost,
        integrality=is_whole,
        bounds=(lower, upper),
        constraints=LinearConstraint(matrix, [row[1] for row in rows], [row[2] for row in rows]),
    )
    if not answer.success:
        raise RuntimeError(f"the multiway cut was not found: {answer.message}")
    return round(answer.fun)
