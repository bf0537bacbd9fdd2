"""Hooks into the scheduler, and into what a client knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def hook_submissions(
    scheduler: Any,
    before: Callable[[dict[Any, Any], dict[str, Any], dict[str, Any]], list[Any]],
) -> None:
    """Call a function on every graph before the scheduler makes tasks of it.

    What it raises reaches the client as the error of the keys that were asked for, and no task
    has been made yet. (What a plugin's ``update_graph`` raises is only logged.)

    Parameters
    ----------
    scheduler
        A running scheduler.
    before
        Takes the nodes by key, the annotations of layers and those of the whole submission, all
        of which it may change, and returns keys of earlier tasks to take out of the queue.
    """
    create = scheduler._create_taskstate_from_graph

    def create_pinned(
        *,
        dsk: dict[Any, Any],
        annotations_by_type: dict[str, Any],
        global_annotations: dict[str, Any] | None,
        stimulus_id: str,
        **rest: Any,
    ) -> Any:
        common = dict(global_annotations or {})
        queued = before(dsk, annotations_by_type, common)
        metrics = create(
            dsk=dsk,
            annotations_by_type=annotations_by_type,
            global_annotations=common,
            stimulus_id=stimulus_id,
            **rest,
        )
        scheduler.transitions(dict.fromkeys(queued, "released"), stimulus_id)
        return metrics

    scheduler._create_taskstate_from_graph = create_pinned


def hook_shuffles(scheduler: Any, allowed: Callable[[Any], set[str] | None]) -> None:
    """Let a function say which workers may hold the output of a P2P shuffle.

    Dask takes every worker unless the barrier task is restricted to workers by address.

    Parameters
    ----------
    scheduler
        A running scheduler.
    allowed
        Takes the `TaskState` of a barrier and returns addresses of workers, or None for all.
    """
    shuffles = scheduler.extensions.get("shuffle")
    if shuffles is None:
        return
    from distributed.shuffle._core import barrier_key

    calculate = shuffles._calculate_worker_for

    def calculate_within(spec: Any) -> Any:
        barrier = scheduler.tasks[barrier_key(spec.id)]
        given = barrier.worker_restrictions
        workers = None if given else allowed(barrier)
        if workers is None:
            return calculate(spec)
        barrier.worker_restrictions = workers
        try:
            return calculate(spec)
        finally:
            barrier.worker_restrictions = given

    shuffles._calculate_worker_for = calculate_within


def hook_placement(scheduler: Any, choose: Callable[[Any], Any | None]) -> None:
    """Let a function choose the worker of a task that is not spread as a root of its graph.

    Parameters
    ----------
    scheduler
        A running scheduler.
    choose
        Takes a `TaskState` and returns a `WorkerState`, or None to leave the choice to Dask.
    """
    decide = scheduler.decide_worker_non_rootish

    def decide_or_choose(ts: Any) -> Any:
        return choose(ts) or decide(ts)

    scheduler.decide_worker_non_rootish = decide_or_choose


def scheduler_identity(client: Any) -> dict[str, Any]:
    """Return what a client knows of its scheduler, without asking it."""
    return dict(client._scheduler_identity)
