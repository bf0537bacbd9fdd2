"""The scheduler's part of `fed.explain`: what the placement of a graph would be, by layer."""

from __future__ import annotations

import pickle
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask.utils import key_split
from distributed.utils import offload

from fed import _dask_private as dask_private
from fed._native import _fed
from fed.submission import Submission

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fed.placement import Placer
    from fed.planning import Plan

REASONS = {
    _fed.FREE: "any pool is as good",
    _fed.PINNED: "pinned: its data lies there",
    _fed.PRESENT: "computed before",
    _fed.WITH_INPUTS: "where its inputs are",
    _fed.WITH_CONSUMERS: "where its output is needed",
}


@dataclass
class _Layer:
    pools: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    tasks: int = 0
    output: int = 0
    smallest: int | None = None
    largest: int = 0
    received: Counter[str] = field(default_factory=Counter)
    """Bytes by ``source>destination``."""
    inputs: set[str] = field(default_factory=set)


class Explainer:
    """Explains placements at clients' requests.

    Parameters
    ----------
    placer
        Places the tasks of the scheduler.
    known
        The pools of the federation; empty when they are not known.
    """

    def __init__(self, placer: Placer, known: Iterable[str]) -> None:
        self.placer = placer
        self.known = tuple(known)

    async def explain(self, comm: object = None, expression: bytes = b"") -> dict[str, Any]:
        """Return what the placement of an expression would be, running nothing.

        Parameters
        ----------
        comm
            Ignored; given when this is called as a handler of the scheduler.
        expression
            A pickled expression, as Dask makes of collections.

        Returns
        -------
        dict
            ``pools``: name and threads and bytes of memory of each. ``layers``: in the order in
            which they run, each with ``name``, ``tasks``, ``pools`` and ``reasons`` (tasks by
            each), ``bytes_out``, ``smallest`` and ``largest`` output, ``received`` (lists of
            source, destination, bytes) and ``inputs`` (names of layers). ``crossing``: bytes per
            pair of pools in all.
        """
        del comm
        expr = pickle.loads(expression)  # noqa: S301 - clients run any code on workers anyway
        graph, annotations, layers = await offload(dask_private.materialise, expr)
        order = await offload(dask_private.order, graph)
        keys = set(dask_private.flatten_keys(expr))
        arrival = dask_private.Arrival(graph, annotations, {}, keys, order, layers=layers)
        submission = Submission(graph, annotations, {})
        submission.settle(self.known)
        plan = self.placer.plan(arrival, submission.pins)
        report: dict[str, Any] = {"pools": self._pools(), "layers": [], "crossing": []}
        if plan is not None:
            report["layers"] = _layers(plan)
            report["crossing"] = [
                [source, destination, nbytes]
                for source, row in zip(plan.pools, plan.crossing, strict=True)
                for destination, nbytes in zip(plan.pools, row, strict=True)
                if nbytes
            ]
        return report

    def _pools(self) -> list[dict[str, Any]]:
        topology = self.placer.topology
        return [
            {
                "name": name,
                "threads": topology.threads(name),
                "memory": sum(worker.memory_limit or 0 for worker in topology.workers(name)),
            }
            for name in topology.names()
        ]


def _layers(plan: Plan) -> list[dict[str, Any]]:
    found: defaultdict[str, _Layer] = defaultdict(_Layer)
    names = [str(dask_private.name_of_key(key) or key) for key in plan.keys]
    names = [name if type(key) is tuple else key_split(name)
             for name, key in zip(names, plan.keys, strict=True)]  # fmt: skip
    crossed: set[tuple[int, int]] = set()
    for number, (name, chosen) in enumerate(zip(names, plan.chosen, strict=True)):
        layer = found[name]
        size = plan.nbytes[number]
        layer.tasks += 1
        layer.output += size
        layer.smallest = size if layer.smallest is None else min(layer.smallest, size)
        layer.largest = max(layer.largest, size)
        layer.pools["any" if chosen < 0 else plan.pools[chosen]] += 1
        layer.reasons[REASONS[plan.reasons[number]]] += 1
        for source in plan.inputs(number):
            if names[source] != name:
                layer.inputs.add(names[source])
            there = plan.chosen[source]
            if chosen < 0 or there in (-1, chosen) or plan.holds(source, chosen):
                continue
            if (source, chosen) not in crossed:
                crossed.add((source, chosen))
                layer.received[f"{plan.pools[there]}>{plan.pools[chosen]}"] += plan.nbytes[source]
    return [_row(name, layer) for name, layer in found.items()]


def _row(name: str, layer: _Layer) -> dict[str, Any]:
    return {
        "name": name,
        "tasks": layer.tasks,
        "pools": dict(sorted(layer.pools.items())),
        "reasons": dict(layer.reasons.most_common()),
        "bytes_out": layer.output,
        "smallest": layer.smallest or 0,
        "largest": layer.largest,
        "received": [[*pair.split(">"), nbytes] for pair, nbytes in sorted(layer.received.items())],
        "inputs": sorted(layer.inputs),
    }
