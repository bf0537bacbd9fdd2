"""Places waiting tasks anew when outputs turn out to have other sizes than was thought."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from fed import _dask_private as dask_private
from fed.names import PLACED, pools_in
from fed.placement import advise, free, is_placed
from fed.planning import Facts, make_plan
from fed.relays import is_relay
from fed.sizes import Estimator

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from distributed.scheduler import TaskState

    from fed.placement import Placer
    from fed.planning import Plan

logger = logging.getLogger("fed.scheduler")

WIDELY = 2.0
"""Ratio of true to estimated bytes beyond which reality differs widely."""

MATTERS = 1_000_000
"""Bytes by which the outputs that are still to come were misjudged, for that to matter."""

DELAY = 0.1
"""Seconds from noticing to placing anew: more may be noticed in between."""

SHARE = 0.05
"""Part of the scheduler's time that placing anew may take."""


class Expectations:
    """Compares the sizes of finished tasks with those that a plan was made for.

    Parameters
    ----------
    placer
        Places tasks, and learns their sizes.
    """

    def __init__(self, placer: Placer) -> None:
        self.placer = placer
        self._expected: dict[Any, tuple[int, int]] = {}
        self._done: dict[Any, int] = {}
        self.passing: dict[Any, int] = {}
        """Bytes that pass the barriers of peer-to-peer shuffles."""
        self._scheduled = False
        self._not_before = 0.0

    def expect(self, plan: Plan) -> None:
        """Take note of what a plan was made for."""
        sums: dict[Any, tuple[int, int]] = {}
        for key, nbytes, present in zip(plan.keys, plan.nbytes, plan.present, strict=True):
            if not present and key not in plan.fused:
                name = _name(key)
                count, total = sums.get(name, (0, 0))
                sums[name] = count + 1, total + nbytes
        known = self.placer.scheduler.tasks
        self.passing = {key: size for key, size in self.passing.items() if key in known}
        self.passing |= {key: plan.nbytes[plan.index[key]] for key in plan.barriers}
        self._expected.update(sums)
        for name in sums:
            self._done[name] = 0

    def bytes_of(self, task: TaskState) -> int:
        """Return the bytes that a task which has run, or runs, hands on.

        Those of a peer-to-peer shuffle pass by its barrier, whose own output is next to nothing,
        and which tells as little of the outputs that are still being put together.
        """
        if task.key in self.passing:
            return self.passing[task.key]
        if not task.who_has:
            barriers = [source for source in task.dependencies if source.key in self.passing]
            if barriers:
                return sum(self.passing[it.key] // max(len(it.dependents), 1) for it in barriers)
        return self.placer.bytes_of(task)

    def observe(self, task: TaskState) -> None:
        """Compare a finished task; place waiting ones anew if that is worth it."""
        name = _name(task.key)
        expected = self._expected.get(name)
        if expected is None:
            return
        done = self._done[name] = self._done[name] + 1
        count, total = expected
        if done >= count:
            del self._expected[name], self._done[name]
        if done & (done - 1):
            return  # looked at after 1, 2, 4, 8, … tasks
        guess, truth = max(total // count, 1), max(task.nbytes, 1)
        known = self.placer.learned.of_group(task.key)
        truth = truth if known is None else max(known, 1)
        differs = max(guess, truth) / min(guess, truth) > WIDELY
        if differs and abs(guess - truth) * count >= MATTERS:
            self._schedule()

    def _schedule(self) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        wait = max(DELAY, self._not_before - monotonic())
        self.placer.scheduler.loop.call_later(wait, self._replace)

    def _replace(self) -> None:
        self._scheduled = False
        start = monotonic()
        moved = replace_waiting(self.placer, self)
        took = monotonic() - start
        self._not_before = monotonic() + took / SHARE
        if moved:
            logger.info("sizes differ from estimates: %d waiting tasks placed anew", moved)


def _name(key: Any) -> Any:
    return key[0] if type(key) is tuple and key else key


def replace_waiting(placer: Placer, expectations: Expectations) -> int:
    """Choose pools anew for the tasks that wait for their inputs.

    Tasks that are queued, and those of peer-to-peer shuffles, stay where they are.

    Returns
    -------
    int
        Number of tasks whose pool has changed.
    """
    tasks = placer.scheduler.tasks.values()
    waiting = {task.key: task for task in tasks if task.state == "waiting" and task.run_spec}
    others = {
        source.key: source
        for task in waiting.values()
        for source in task.dependencies
        if source.key not in waiting
    }
    held = {key: task for key, task in others.items() if task.state in {"memory", "processing"}}
    names = placer.topology.names()
    if not waiting or not held or len(names) < 2:  # noqa: PLR2004
        return 0
    bound = _bound(waiting.values())
    ready = {key: task for key, task in others.items() if key not in held and task.run_spec}
    graph = {key: task.run_spec for key, task in {**waiting, **ready}.items()}
    allowed: dict[Any, Collection[str]] = {
        key: pools
        for key, task in {**waiting, **ready}.items()
        if (key in bound or key in ready) and (pools := pools_in(task.resource_restrictions))
    }
    facts = Facts(
        pools=names,
        pins={},
        allowed=allowed,
        present={
            key: placer.topology.pools_of(task.who_has or {task.processing_on})
            for key, task in held.items()
        },
        present_bytes={key: expectations.bytes_of(task) for key, task in held.items()},
        costs=placer.links.costs(names),
        threads=[placer.topology.threads(name) for name in names],
        passing=expectations.passing,
    )
    order = {key: task.priority for key, task in {**waiting, **ready}.items()}
    plan = make_plan(graph, order, Estimator(placer.blocks, placer.learned), facts)
    expectations.expect(plan)
    return sum(_move(waiting[key], _pool_in(plan, waiting[key])) for key in waiting.keys() - bound)


def _pool_in(plan: Plan, task: TaskState) -> str | None:
    """Return the pool that a plan has for a task; for a relay, that of those who need it.

    It is of no use anywhere else, but costs as little beside its input.
    """
    if not is_relay(task.key):
        return plan.pool_of(task.key)
    pools = [plan.pool_of(user.key) for user in task.dependents if user.key in plan.index]
    return max(sorted(set(pools), key=str), key=pools.count, default=plan.pool_of(task.key))


def _bound(tasks: Iterable[TaskState]) -> set[Any]:
    """Return the keys of tasks that must stay where they are."""
    bound = set()
    for task in tasks:
        is_pinned = pools_in(task.resource_restrictions) and not is_placed(task)
        is_settled = task.actor or task.worker_restrictions or task.host_restrictions
        is_shuffle = any(dask_private.is_barrier(it.run_spec) for it in (task, *task.dependencies))
        if is_pinned or is_settled or is_shuffle:
            bound.add(task.key)
    return bound


def _move(task: TaskState, pool: str | None) -> bool:
    before = task.annotations.get(PLACED) if is_placed(task) else None
    if before == pool:
        return False
    if before is not None:
        free(task)
    if pool is not None:
        advise(task, pool)
    return True
