"""The extension of Dask's scheduler: what `fed.scheduler` loads.

It reads the pins of every graph that is submitted, restricts the pinned tasks to the workers
of their pool, refuses a task that two pools claim, and keeps work stealing within pools.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import dask
import distributed

from fed import _dask_private as dask_private
from fed.counters import PoolCounters
from fed.explaining import Explainer
from fed.lapses import heed_lapses
from fed.learning import Learner
from fed.ledger import OPERATION, Ledger
from fed.links import LINKS_VARIABLE, Links
from fed.listing import list_workers
from fed.names import pools_in, resource_of
from fed.pins import pin_node
from fed.placement import Placer, free, is_placed
from fed.probing import Prober
from fed.queueing import Pace, queue_by_pool
from fed.replacing import Expectations
from fed.residency import Residency
from fed.shuffles import confine_shuffles
from fed.spreading import spread_loads
from fed.stealing import confine_stealing
from fed.submission import Submission, conflict, elsewhere, stale_pin
from fed.topology import Topology
from fed.transfers import reckon_with_links
from fed.vacancies import Vacancies, timeout_from_environment
from fed.versions import SUPPORTED_DASK

if TYPE_CHECKING:
    from collections.abc import Callable

    from distributed.scheduler import Scheduler, TaskState

    from fed.planning import Plan

POOLS_VARIABLE = "FED_POOLS"
"""Environment variable: JSON list of the federation's pools, as names or as objects with
``name`` and ``site``. Without it, no name of a pool is refused."""

GRAPH_CONFIG = {
    # Low-level fusion forgets annotations, and blockwise fusion mixes those of two pools.
    "optimization.fuse.active": False,
    "optimization.annotations.fuse": False,
}


async def extend(scheduler: Scheduler) -> tuple[str, ...]:
    """Extend a scheduler that has just been made, and return the pools that it knows.

    Raises
    ------
    RuntimeError
        If this Dask lacks what the extension needs.
    """
    _check_names()
    sites = _sites(os.environ.get(POOLS_VARIABLE, "[]"))
    dask.config.set(GRAPH_CONFIG)
    topology = Topology(scheduler, sites)
    links = Links.from_json(os.environ.get(LINKS_VARIABLE, "[]"))
    placer = Placer(scheduler, topology, links)
    await confine_stealing(scheduler, topology)
    pace = Pace(topology, links)
    queues = queue_by_pool(scheduler, topology, pace)
    expectations = Expectations(placer)
    learner = Learner(placer, pace, queues, expectations)
    counters = PoolCounters(scheduler, sites, learner)
    scheduler.add_plugin(counters)
    scheduler.handlers["fed_stats"] = counters.stats
    ledger = Ledger(scheduler, placer)
    scheduler.add_plugin(ledger)
    scheduler.handlers[OPERATION] = ledger.traffic
    scheduler.handlers["fed_explain"] = Explainer(placer, sites).explain

    def placed(plan: Plan) -> None:
        ledger.note(plan)
        expectations.expect(plan)

    _settle_submissions(scheduler, tuple(sites), placer, placed)
    confine_shuffles(scheduler, topology)
    spread_loads(scheduler, topology)
    reckon_with_links(scheduler, topology, links)
    Residency(scheduler, topology)
    list_workers(scheduler)
    heed_lapses(scheduler)
    Vacancies(scheduler, topology, sites, timeout_from_environment()).install()
    scheduler.handlers["fed_links"] = links.handle
    Prober(scheduler, topology, links).install()
    return tuple(sites)


def _check_names() -> None:
    gaps = dask_private.missing()
    if gaps:
        raise RuntimeError(
            f"dask {dask.__version__} with distributed {distributed.__version__} lacks"
            f" {', '.join(gaps)}. Install {SUPPORTED_DASK} of both."
        )


def _sites(text: str) -> dict[str, str]:
    """Return site by pool, from the value of ``FED_POOLS``."""
    sites = {}
    for entry in json.loads(text):
        if isinstance(entry, str):
            sites[entry] = entry
        else:
            sites[entry["name"]] = entry.get("site", entry["name"])
    return sites


def _settle_submissions(
    scheduler: Scheduler,
    known: tuple[str, ...],
    placer: Placer,
    placed: Callable[[Plan], None],
) -> None:
    """Make the scheduler settle the pins of each graph, and place the rest, before it makes tasks.

    Parameters
    ----------
    scheduler
        A running scheduler.
    known
        The pools of the federation; empty when they are not known.
    placer
        Places what is not pinned.
    placed
        Is told what was placed.
    """

    def settle(arrival: dask_private.Arrival) -> list[Any]:
        submission = Submission(arrival.graph, arrival.by_type, arrival.common)
        submission.settle(known)
        _check_workers(scheduler, submission)
        queued = _pin_existing(scheduler, submission)
        if queued or submission.pins:
            # What had nothing to do with pools may have now.
            placer.poolless.clear()
        plan = placer.arrive(arrival, submission.pins)
        if plan is not None:
            placed(plan)
        return queued

    dask_private.hook_submissions(scheduler, settle)


def _check_workers(scheduler: Scheduler, submission: Submission) -> None:
    """Refuse a pinned task that is restricted to workers of other pools: it could never run.

    Hosts, and workers that may still join, are let through.
    """
    for key, pool in submission.pins.items():
        names = submission.annotation("workers", key)
        if not names or submission.annotation("allow_other_workers", key):
            continue
        names = list(names) if isinstance(names, list | tuple | set) else [names]
        workers = [scheduler.workers.get(scheduler.aliases.get(name, name)) for name in names]
        pools = [pools_in(worker.resources) if worker else {pool} for worker in workers]
        if all(pool not in offered for offered in pools):
            raise elsewhere(key, pool, names, frozenset().union(*pools))


def _pin_existing(scheduler: Scheduler, submission: Submission) -> list[Any]:
    """Pin tasks that were submitted before, without a pin, and are now submitted with one.

    Returns
    -------
    list
        Keys that wait in the scheduler's queue, which knows no restrictions: they must leave it.

    Raises
    ------
    StalePinError
        If such a task has run, or runs, in another pool.
    PoolConflictError
        If it was pinned to another pool.
    """
    for key in submission.pins:
        if (placed := scheduler.tasks.get(key)) and is_placed(placed):
            free(placed)
    earlier = [
        (task, pool)
        for key, pool in submission.pins.items()
        if (task := scheduler.tasks.get(key)) and pools_in(task.resource_restrictions) != {pool}
    ]
    for task, pool in earlier:
        if others := pools_in(task.resource_restrictions):
            raise conflict(task.key, others | {pool})
        if task.state in {"processing", "memory"}:
            _check_place(task, pool)
    for task, pool in earlier:
        if task.run_spec is not None and task.state not in {"processing", "memory"}:
            task.run_spec = _pinned_spec(task, submission.graph[task.key], pool)
        task.resource_restrictions = {**(task.resource_restrictions or {}), resource_of(pool): 0}
    return [task.key for task, _ in earlier if task.state == "queued"]


def _pinned_spec(task: TaskState, node: Any, pool: str) -> Any:
    """Return what a task runs, with its pin; its inputs stay those that the scheduler knows."""
    if node.dependencies == {source.key for source in task.dependencies}:
        return node
    return pin_node(task.run_spec, pool)  # it was fused, or given a relay


def _check_place(task: TaskState, pool: str) -> None:
    workers = {task.processing_on} if task.processing_on else set(task.who_has or ())
    elsewhere = [worker for worker in workers if pool not in pools_in(worker.resources)]
    if not elsewhere:
        return
    ran_in = ", ".join(sorted({p for w in elsewhere for p in pools_in(w.resources)})) or "no pool"
    raise stale_pin(task.key, pool, ran_in)
