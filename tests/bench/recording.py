"""A scheduler plugin that records the graphs that really ran, with the sizes that were measured."""

from __future__ import annotations

from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

PREFIX = "pool-"


class Recorder(SchedulerPlugin):
    """Records each task that comes to its end: bytes, inputs, and the pool that it is pinned to."""

    name = "bench-recorder"

    def __init__(self) -> None:
        self.tasks: dict[Any, tuple[int, tuple[Any, ...], str | None]] = {}
        self.scheduler: Any = None

    async def start(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
        if start != "processing" or finish != "memory":
            return
        task = self.scheduler.tasks[key]
        pool = None
        if "fed_placed" not in (task.annotations or {}):  # that would be a choice, not a need
            names = [name for name in task.resource_restrictions or {} if name.startswith(PREFIX)]
            pool = names[0].removeprefix(PREFIX) if names else None
        inputs = tuple(source.key for source in task.dependencies)
        self.tasks[key] = (int(task.nbytes), inputs, pool)


def take(dask_scheduler: Any) -> dict[Any, tuple[int, tuple[Any, ...], str | None]]:
    """Return what was recorded since the last call; for ``client.run_on_scheduler``."""
    recorder = dask_scheduler.plugins[Recorder.name]
    tasks, recorder.tasks = recorder.tasks, {}
    return dict(tasks)
