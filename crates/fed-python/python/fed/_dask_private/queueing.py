"""Hooks into the scheduler's queue of root tasks, and into how many tasks a worker is sent."""

from __future__ import annotations

import math
from functools import wraps
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from distributed.collections import HeapSet

if TYPE_CHECKING:
    from collections.abc import Callable


class PoolQueues:
    """Root tasks that wait for a thread of their pool, beside Dask's own queue of all of them.

    Parameters
    ----------
    scheduler
        A running scheduler.
    pool_of_task
        Returns the pool in which a task has to run, None where any will do.
    pool_of_worker
        Returns the pool of a worker.
    threads
        Returns the threads of a pool.
    """

    def __init__(
        self,
        scheduler: Any,
        pool_of_task: Callable[[Any], str | None],
        pool_of_worker: Callable[[Any], str | None],
        threads: Callable[[str], int],
    ) -> None:
        self.scheduler = scheduler
        self.pool_of_task = pool_of_task
        self.pool_of_worker = pool_of_worker
        self.threads = threads
        self.queues: dict[str | None, HeapSet[Any]] = {}

    def install(self) -> None:
        """Replace the transitions that fill and empty the queue; once."""
        table = dict(self.scheduler._TRANSITIONS_TABLE)
        plain_start = table["waiting", "processing"]
        plain_queue = table["waiting", "queued"]

        def start(scheduler: Any, key: Any, stimulus_id: str) -> Any:
            task = scheduler.tasks[key]
            pool = self._root_pool(task)
            if pool is None:
                return plain_start(scheduler, key, stimulus_id)
            worker = self._idle_worker(pool)
            if worker is None:
                return {key: "queued"}, {}, {}
            return scheduler._add_to_processing(task, worker, stimulus_id=stimulus_id)

        def queue(scheduler: Any, key: Any, stimulus_id: str) -> Any:
            task = scheduler.tasks[key]
            pool = self.pool_of_task(task)
            if pool is None:
                answer = plain_queue(scheduler, key, stimulus_id)
            else:  # Dask's own checks that no worker at all is idle
                task.state = "queued"
                scheduler.queued.add(task)
                answer = {}, {}, {}
            self._queue(pool).add(task)
            return answer

        def leave_and_start(scheduler: Any, key: Any, stimulus_id: str) -> Any:
            task = scheduler.tasks[key]
            worker = self._idle_worker(self.pool_of_task(task))
            if worker is None:
                return {}, {}, {}
            scheduler.queued.discard(task)
            self._discard(task)
            return scheduler._add_to_processing(task, worker, stimulus_id=stimulus_id)

        table["waiting", "processing"] = start
        table["waiting", "queued"] = queue
        table["queued", "processing"] = leave_and_start
        for finish in ("released", "erred"):
            table["queued", finish] = self._leaving(table["queued", finish])
        self.scheduler._TRANSITIONS_TABLE = table
        self.scheduler.stimulus_queue_slots_maybe_opened = self.fill
        self._validate = self.scheduler.validate_queued
        self.scheduler.validate_queued = self.validate

    def validate(self, key: Any) -> None:
        """Check a queued task as Dask does, which knows none that is restricted."""
        task = self.scheduler.tasks[key]
        restrictions = task.resource_restrictions
        if self.pool_of_task(task) is not None:
            task.resource_restrictions = None
        try:
            self._validate(key)
        finally:
            task.resource_restrictions = restrictions

    def _leaving(self, plain: Any) -> Any:
        @wraps(plain)
        def leave(scheduler: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
            self._discard(scheduler.tasks[key])
            return plain(scheduler, key, *args, **kwargs)

        return leave

    def _queue(self, pool: str | None) -> HeapSet[Any]:
        if pool not in self.queues:
            self.queues[pool] = HeapSet(key=attrgetter("priority"))
        return self.queues[pool]

    def _discard(self, task: Any) -> None:
        for queue in self.queues.values():
            queue.discard(task)

    def is_root(self, task: Any) -> bool:
        """Tell whether a task waits in the queue of a pool when that is busy."""
        return self._root_pool(task) is not None

    def _root_pool(self, task: Any) -> str | None:
        """Return the pool of a task that waits in its queue as the roots of a graph do."""
        if not task.resource_restrictions or task.worker_restrictions or task.host_restrictions:
            return None
        if not task._queueable or task.actor or math.isinf(self.scheduler.WORKER_SATURATION):
            return None
        pool = self.pool_of_task(task)
        if pool is None:
            return None
        threads = self.threads(pool)
        if not threads:
            return None
        if task.run_spec and task.run_spec.data_producer:
            return pool
        group, scheduler = task.group, self.scheduler
        is_root = (
            len(group) > threads * 2
            and len(group.dependencies) < scheduler.rootish_tg_threshold
            and sum(map(len, group.dependencies)) < scheduler.rootish_tg_dependencies_threshold
        )
        return pool if is_root else None

    def _idle_worker(self, pool: str | None) -> Any | None:
        idle = self.scheduler.idle_task_count
        if pool is not None:
            idle = [worker for worker in idle if self.pool_of_worker(worker) == pool]
        return min(idle, key=_load, default=None)

    def fill(self, *, stimulus_id: str) -> None:
        """Start tasks of the queues, first the most urgent, while their pools have idle threads."""
        if not self.scheduler.queued:
            return
        while True:
            ready = [
                queue.peek()
                for pool, queue in self.queues.items()
                if queue and self._idle_worker(pool) is not None
            ]
            if not ready:
                return
            task = min(ready, key=attrgetter("priority"))
            self.scheduler.transitions({task.key: "processing"}, stimulus_id)
            if task.state == "queued":
                return

    def release(self, pool: str, free: Callable[[Any], bool]) -> None:
        """Move tasks out of the queue of a pool into the common one.

        Parameters
        ----------
        pool
            A pool that has lost its workers.
        free
            Lifts a task's restriction; False if it must stay.
        """
        queue = self._queue(pool)
        for task in list(queue):
            if free(task):
                queue.discard(task)
                self._queue(None).add(task)


def _load(worker: Any) -> float:
    return float(len(worker.processing) / worker.nthreads)


def hook_saturation(extra: Callable[[Any], float]) -> None:
    """Let a function say how many more tasks per thread a worker is sent than Dask's setting.

    Parameters
    ----------
    extra
        Takes a `WorkerState`.
    """
    import distributed.scheduler as module

    plain = module._task_slots_available
    plain = getattr(plain, "plain", plain)

    @wraps(plain)
    def _task_slots_available(ws: Any, saturation_factor: float) -> int:
        return int(plain(ws, saturation_factor + extra(ws)))

    _task_slots_available.plain = plain  # type: ignore[attr-defined]
    module._task_slots_available = _task_slots_available
