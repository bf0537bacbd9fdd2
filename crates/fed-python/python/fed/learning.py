"""What the extension learns while tasks run and workers come and go."""

from __future__ import annotations

from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING, Any

from fed.queueing import free_if_placed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from distributed.scheduler import TaskState

    from fed._dask_private import PoolQueues
    from fed.placement import Placer
    from fed.queueing import Pace
    from fed.replacing import Expectations


@dataclass(frozen=True)
class Learner:
    """Passes on what happens to those who draw conclusions from it."""

    placer: Placer
    pace: Pace
    queues: PoolQueues
    expectations: Expectations

    def joined(self) -> None:
        """Take note that a worker has joined."""
        self.placer.topology.refresh()

    def finished(self, task: TaskState, pool: str, startstops: Iterable[Mapping[str, Any]]) -> None:
        """Take note of a finished task.

        Parameters
        ----------
        task
            The task, whose size is known now.
        pool
            The pool in which it ran.
        startstops
            What it did when, as its worker says.
        """
        # Only root tasks wait in the queues; what reduces their outputs may take far less time.
        is_root = not task.dependencies or self.queues.is_root(task)
        for entry in startstops if is_root else ():
            if entry["action"] == "compute":
                self.pace.observe(pool, entry["stop"] - entry["start"])
        guess = self.placer.guess(task) if type(task.key) is tuple else None
        self.placer.learned.add(task.key, task.prefix.name, task.nbytes, guess)
        self.expectations.observe(task)

    def lost(self, pool: str) -> None:
        """Free the placed tasks of a pool that has lost its last worker."""
        scheduler = self.placer.scheduler
        self.queues.release(pool, free_if_placed)
        runnable = {
            task.key: "processing"
            for task in list(scheduler.unrunnable)
            if pool in self.placer.pools_of_task(task) and free_if_placed(task)
        }
        scheduler.transitions(runnable, f"fed-pool-lost-{time()}")
        self.queues.fill(stimulus_id=f"fed-pool-lost-{time()}")
