"""Settles, for a graph that reaches the scheduler, which task is pinned to which pool.

Plain functions over the graph and its annotations: nothing here knows the scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dask.utils import key_split

from fed.errors import PoolConflictError, StalePinError
from fed.names import ANNOTATION, check_pool, pools_in, resource_of, without_pools
from fed.pins import find_pools, pin_node

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass
class Submission:
    """A graph as it reaches the scheduler, and after `settle`, the pins of its tasks.

    Parameters
    ----------
    graph
        Nodes by key. `settle` marks those that only an annotation pins.
    by_type
        Annotations of layers: value by key, by kind of annotation. Rewritten by `settle`.
    common
        Annotations of the whole submission (``submit``, ``map``, ``compute`` in a block).
        Rewritten by `settle`.
    """

    graph: dict[Any, Any]
    by_type: dict[str, dict[Any, Any]]
    common: dict[str, Any]
    pins: dict[Any, str] = field(default_factory=dict)
    """Pool by key, for every pinned task of the graph."""

    def settle(self, known: Iterable[str] = ()) -> None:
        """Find every task's pool, and say it in the way that the scheduler obeys.

        Parameters
        ----------
        known
            The pools of the federation; empty when they are not known.

        Raises
        ------
        PoolConflictError
            If two pools claim one task.
        UnknownPoolError
            If a task is pinned to a pool that the federation does not have.
        """
        self._find()
        names = tuple(known)
        for pool in sorted(set(self.pins.values())):
            check_pool(pool, names)
        for key, pool in self.pins.items():
            self.graph[key] = pin_node(self.graph[key], pool)
        self._restrict()

    def annotation(self, kind: str, key: Any) -> Any:
        """Return an annotation of a task: its own, or else that of the whole submission."""
        own = self.by_type.get(kind, {}).get(key)
        return _value(self.common.get(kind), key) if own is None else own

    def _find(self) -> None:
        memo: dict[int, frozenset[str]] = {}
        resources = self.by_type.get("resources", {})
        annotated = self.by_type.get(ANNOTATION, {})
        of_all = self.common.get("resources") or self.common.get(ANNOTATION)
        for key, node in self.graph.items():
            pools = find_pools(node, memo)
            if isinstance(annotated.get(key), str):
                pools |= {annotated[key]}
            if isinstance(resources.get(key), dict):
                pools |= pools_in(resources[key])
            lifted = annotated.get(key, "") is None  # by `pool(None)`
            if of_all and not pools and not lifted:
                pools = _pools_of_submission(self.common, key)
            if len(pools) > 1:
                raise conflict(key, pools)
            if pools:
                (self.pins[key],) = pools

    def _restrict(self) -> None:
        """Turn pins into resource restrictions of amount 0, and drop every other trace.

        An amount of 1 would let one task at a time run on each worker.
        """
        common = self.common.pop("resources", None)
        self.common.pop(ANNOTATION, None)
        layers = self.by_type.pop("resources", {})
        self.by_type.pop(ANNOTATION, None)
        if not (self.pins or layers or common):
            return
        restrictions = {}
        for key in self.graph:
            own = layers[key] if isinstance(layers.get(key), dict) else _value(common, key)
            restriction = without_pools(own)
            if key in self.pins:
                restriction[resource_of(self.pins[key])] = 0
            if restriction:
                restrictions[key] = restriction
        if restrictions:
            self.by_type["resources"] = restrictions


def _value(annotation: Any, key: Any) -> Any:
    return annotation(key) if callable(annotation) else annotation


def _pools_of_submission(common: Mapping[str, Any], key: Any) -> frozenset[str]:
    pools = pools_in(_value(common.get("resources"), key))
    name = _value(common.get(ANNOTATION), key)
    return pools if name is None else pools | {name}


def conflict(key: Any, pools: frozenset[str]) -> PoolConflictError:
    """Return the error that refuses a task which several pools claim."""
    names = tuple(sorted(pools))
    listed = " and ".join(repr(name) for name in names)
    return PoolConflictError(
        f"task {key!r} is claimed by pools {listed}, and can run in one only. Either a function"
        " pinned to one pool is given a pin of the other (open and pin each source by itself, and"
        " combine them outside fed.pool), or their tasks were fused before they were submitted"
        " (persist one of the two first, or leave optimisation to the federation's scheduler).",
        task=key,
        pools=names,
    )


def elsewhere(key: Any, pool: str, names: list[Any], pools: frozenset[str]) -> PoolConflictError:
    """Return the error that refuses a pinned task that is restricted to workers elsewhere."""
    there = " and ".join(repr(name) for name in sorted(pools)) or "no pool"
    return PoolConflictError(
        f"task {key!r} is pinned to pool {pool!r}, and restricted to workers"
        f" {', '.join(map(str, names))} of {there}: it can run nowhere. Name workers of {pool!r},"
        " or none.",
        task=key,
        pools=tuple(sorted({pool, *pools})),
    )


def stale_pin(key: Any, pool: str, ran_in: str) -> StalePinError:
    """Return the error that refuses a pin on what has run somewhere else."""
    return StalePinError(
        f"task {key!r} is now pinned to pool {pool!r}, but was submitted before without a"
        f" pin, and ran in {ran_in}: its result may be made of other data. Release the futures"
        f" and persisted objects of {key_split(key)!r}, then submit again, or give the"
        " pinned one another name.",
        task=key,
        pool=pool,
        ran_in=ran_in,
    )
