"""Places the tasks of a graph that reaches the scheduler, and frees them where that was wrong.

A *pinned* task must run in its pool. A *placed* one should: it bears the same restriction, and an
annotation that says that it is advice, so that it is free again when its pool has lost all of
its workers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from fed import _dask_private as dask_private
from fed.fusing import fuse_chains
from fed.names import PLACED, pools_in, resource_of, without_pools
from fed.pins import find_pools
from fed.planning import Facts, Plan, make_plan
from fed.relays import gather_free, insert_relays, is_relay
from fed.sizes import UNKNOWN_ROOT, Blocks, Estimator, Learned, blocks_of_layers
from fed.submission import conflict, stale_pin

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from distributed.scheduler import Scheduler, TaskState

    from fed.links import Links
    from fed.topology import Topology

logger = logging.getLogger("fed.scheduler")

MOST_ARRAYS = 10_000
"""Arrays whose chunks are remembered for tasks that wait."""

_HELD = frozenset({"memory", "processing"})


def is_placed(task: TaskState) -> bool:
    """Tell whether a task's restriction to a pool is advice."""
    return bool(task.annotations) and PLACED in task.annotations


def free(task: TaskState) -> None:
    """Lift the advice from a placed task, which must not be processing."""
    pool = task.annotations.pop(PLACED)
    rest = dict(task.resource_restrictions or {})
    rest.pop(resource_of(pool), None)
    task.resource_restrictions = rest or None


def advise(task: TaskState, pool: str) -> None:
    """Place a task that has been made already, and is not processing."""
    task.annotations = {**(task.annotations or {}), PLACED: pool}
    others = without_pools(task.resource_restrictions)
    task.resource_restrictions = {**others, resource_of(pool): 0}


class Placer:
    """Chooses the pools of tasks for one scheduler.

    Parameters
    ----------
    scheduler
        The scheduler.
    topology
        Its pools.
    links
        What it costs to move bytes between them.
    """

    def __init__(self, scheduler: Scheduler, topology: Topology, links: Links) -> None:
        self.scheduler = scheduler
        self.topology = topology
        self.links = links
        self.learned = Learned()
        self.relays = 0
        self.has_fused = False
        self.blocks: dict[str, Blocks] = {}
        self.poolless: WeakSet[TaskState] = WeakSet()
        """Tasks that have nothing to do with pools, as far as it has been looked."""

    def arrive(self, arrival: dask_private.Arrival, pins: Mapping[Any, str]) -> Plan | None:
        """Place the tasks of a graph before they are made.

        Parameters
        ----------
        arrival
            The graph, its pins settled; relays are added to it, and restrictions.
        pins
            Pool by key.

        Returns
        -------
        Plan or None
            None if nothing in the graph has to do with pools.
        """
        if self.relays or self.has_fused:
            self._adopt(arrival, pins)
        # With one pool there is nothing to choose.
        plan = self.plan(arrival, pins) if len(self.topology.names()) > 1 else None
        if plan is None:
            return None
        if len(self.blocks) > MOST_ARRAYS:
            self.blocks.clear()
        self.blocks.update(blocks_of_layers(arrival.layers))
        mine = arrival.graph.keys() - self.scheduler.tasks.keys()
        kept = self._kept(arrival)
        crowded = [pool for pool in plan.pools if len(self.topology.workers(pool)) > 1]
        resources = arrival.by_type.get("resources", {})
        free_to_go = {
            key
            for key in mine - kept - resources.keys()
            if not dask_private.is_barrier(arrival.graph[key])
        }
        gather_free(plan, crowded=crowded, mine=free_to_go)
        relays = insert_relays(arrival.graph, arrival.order, plan, crowded=crowded, mine=mine)
        self.relays += len(relays)
        placed = dict(relays)
        for number, pool in enumerate(plan.chosen):
            key = plan.keys[number]
            if pool >= 0 and key in mine and key not in pins and key not in kept:
                placed[key] = plan.pools[pool]
        if placed:
            for key, name in placed.items():
                resources[key] = {**resources.get(key, {}), resource_of(name): 0}
            arrival.by_type["resources"] = resources
            arrival.by_type[PLACED] = placed
        plan.fused = fuse_chains(arrival, self.scheduler.tasks)
        self.has_fused |= bool(plan.fused)
        return plan

    def plan(self, arrival: dask_private.Arrival, pins: Mapping[Any, str]) -> Plan | None:
        """Choose pools for the tasks of a graph, and change nothing.

        Returns
        -------
        Plan or None
            None if nothing in the graph has to do with pools.
        """
        names = self.topology.names()
        present = self._present(arrival.graph)
        held = [key for key, pools in present.items() if pools]
        if not pins and not self._has_to_do_with_pools(held):
            return None
        needed = _needed(arrival.graph, arrival.keys, present)
        estimator = Estimator({**self.blocks, **blocks_of_layers(arrival.layers)}, self.learned)
        tasks = self.scheduler.tasks
        facts = Facts(
            pools=names,
            pins=pins,
            allowed=self._allowed(arrival, needed, names),
            present=present,
            present_bytes={key: self.bytes_of(tasks[key]) for key in present},
            costs=self.links.costs(names),
            threads=[self.topology.threads(name) for name in names],
        )
        return make_plan(needed, arrival.order, estimator, facts)

    def _has_to_do_with_pools(self, keys: Iterable[Any]) -> bool:
        """Tell whether any of these tasks, or of those that they were made of, is kept to a pool.

        What was computed or scattered without any pool lies in one by chance.
        """
        tasks = self.scheduler.tasks
        seen = set()
        waiting = [tasks[key] for key in keys]
        while waiting:
            task = waiting.pop()
            if task in seen or task in self.poolless:
                continue
            if pools_in(task.resource_restrictions):
                return True
            seen.add(task)
            waiting.extend(task.dependencies)
        self.poolless.update(seen)
        return False

    def bytes_of(self, task: TaskState) -> int:
        """Return the bytes of a task's output, estimated while it runs."""
        if task.who_has:
            return int(max(task.nbytes, 0))
        sizes = (source.nbytes for source in task.dependencies)
        inputs = [UNKNOWN_ROOT if nbytes < 0 else nbytes for nbytes in sizes]
        return Estimator(self.blocks, self.learned).nbytes(task.key, task.run_spec, inputs)

    def guess(self, task: TaskState) -> int | None:
        """Return what is known of the bytes of a task's output without any that has run."""
        return Estimator(self.blocks, self.learned).guess(task.key, task.run_spec)

    @staticmethod
    def pools_of_task(task: TaskState) -> frozenset[str]:
        """Return the pools that a task is restricted to."""
        return pools_in(task.resource_restrictions)

    def _present(self, graph: Mapping[Any, Any]) -> dict[Any, frozenset[str]]:
        """Return the pools that hold, or will make, what the graph shares with earlier ones."""
        tasks = self.scheduler.tasks
        if not tasks:
            return {}
        shared = {key for key in graph if key in tasks}
        for node in graph.values():
            shared.update(key for key in node.dependencies if key in tasks)
        found = {}
        for key in shared:
            task = tasks[key]
            if task.state in _HELD:
                workers = task.who_has or {task.processing_on}
                found[key] = self.topology.pools_of(workers)
            elif key not in graph:  # of an earlier graph that has not come as far yet
                found[key] = pools_in(task.resource_restrictions)
        return found

    def _allowed(
        self, arrival: dask_private.Arrival, needed: Iterable[Any], names: Collection[str]
    ) -> dict[Any, Collection[str]]:
        """Return the pools to which something other than a pin of this graph keeps tasks."""
        found: dict[Any, Collection[str]] = {}
        tasks = self.scheduler.tasks
        resources = arrival.by_type.get("resources", {})
        if tasks or resources:
            for key in needed:
                task = tasks.get(key)
                wanted = resources.get(key) if task is None else task.resource_restrictions
                if not wanted:
                    continue
                if pools := pools_in(wanted):
                    if task is not None and not is_placed(task):
                        found[key] = pools
                    continue
                found[key] = self._offering(wanted, names)
        for key, workers in self._worker_restrictions(arrival).items():
            found[key] = self.topology.pools_of(workers)
        return found

    def _offering(self, wanted: Mapping[str, float], names: Collection[str]) -> Collection[str]:
        workers = [
            worker
            for worker in self.scheduler.workers.values()
            if all(worker.resources.get(name, -1) >= amount for name, amount in wanted.items())
        ]
        return self.topology.pools_of(workers) or names

    def _kept(self, arrival: dask_private.Arrival) -> set[Any]:
        """Return the keys of tasks whose place the user has chosen, or that are actors."""
        return {*arrival.actors, *self._worker_restrictions(arrival)}

    def _worker_restrictions(self, arrival: dask_private.Arrival) -> dict[Any, list[Any]]:
        """Return the workers to which annotations restrict tasks, by key."""
        scheduler = self.scheduler
        found = {}
        for kind in ("workers", "restrictions"):
            wanted = dict(arrival.by_type.get(kind, {}))
            if (common := arrival.common.get(kind)) is not None:
                wanted = dict.fromkeys(arrival.graph, common) | wanted
            for key, given in wanted.items():
                value = given(key) if callable(given) else given
                names = value if isinstance(value, list | tuple | set) else [value]
                addresses = {scheduler.aliases.get(name, name) for name in names}
                found[key] = [
                    worker
                    for worker in scheduler.workers.values()
                    if worker.address in addresses or worker.host in addresses
                ]
        return found

    def _adopt(self, arrival: dask_private.Arrival, pins: Mapping[Any, str]) -> None:
        """Use the relays, and what was fused, of tasks that an earlier graph had too.

        Dask would take a task that comes back with other dependencies for another one.

        Raises
        ------
        PoolConflictError, StalePinError
            If something that was fused into one of them has another pin by now.
        """
        tasks = self.scheduler.tasks
        for key, node in list(arrival.graph.items()):
            task = tasks.get(key)
            if task is None or task.run_spec is None:
                continue
            sources = {source.key: source for source in task.dependencies}
            if sources.keys() == node.dependencies:
                continue
            if any(map(is_relay, sources)) or dask_private.is_fused(task.run_spec):
                _check_pins(task, pins)
                arrival.graph[key] = task.run_spec
                for name, source in sources.items():
                    if name not in arrival.graph and source.run_spec is not None:
                        arrival.graph[name] = source.run_spec
                        arrival.order[name] = arrival.order.get(key, 0) - 0.5


def _check_pins(task: TaskState, pins: Mapping[Any, str]) -> None:
    """Refuse a fused task whose parts have other pins by now."""
    for key, node in dask_private.nodes_inside(task.run_spec):
        pool = pins.get(key)
        if pool is None:
            continue
        if before := find_pools(node):
            if before != {pool}:
                raise conflict(key, before | {pool})
        elif (ran_in := pools_in(task.resource_restrictions)) != {pool}:
            raise stale_pin(key, pool, ", ".join(sorted(ran_in)) or "no pool")


def _needed(graph: dict[Any, Any], keys: Iterable[Any], present: Collection[Any]) -> dict[Any, Any]:
    """Return the nodes that will run: what was asked for, and what that needs."""
    needed = {}
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key in needed or key in present or key not in graph:
            continue
        needed[key] = node = graph[key]
        waiting.extend(node.dependencies)
    return needed
