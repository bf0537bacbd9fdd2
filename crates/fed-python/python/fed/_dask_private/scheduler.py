"""Hooks into the scheduler, and into what a client knows of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

from dask._expr import Expr
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass
class Arrival:
    """A graph that has reached the scheduler, before it makes tasks of it. All of it may change."""

    graph: dict[Any, Any]
    """Nodes by key."""
    by_type: dict[str, dict[Any, Any]]
    """Annotations of layers: value by key, by kind of annotation."""
    common: dict[str, Any]
    """Annotations of the whole submission."""
    keys: set[Any]
    """The keys that were asked for."""
    order: dict[Any, Any]
    """A number by key: smaller runs earlier, and inputs before those that need them."""
    actors: frozenset[Any] = frozenset()
    layers: Mapping[str, Any] = field(default_factory=dict)
    """The layers of high-level graphs by name, as they were before Dask optimised them."""


_LAYERS = "fed_layers"


def hook_submissions(scheduler: Any, before: Callable[[Arrival], list[Any]]) -> None:
    """Call a function on every graph before the scheduler makes tasks of it.

    What it raises reaches the client as the error of the keys that were asked for, and no task
    has been made yet. (What a plugin's ``update_graph`` raises is only logged.)

    Parameters
    ----------
    scheduler
        A running scheduler.
    before
        Takes the graph, which it may change, and returns keys of earlier tasks to take out of
        the queue.
    """
    _hook_materialisation()
    create = scheduler._create_taskstate_from_graph

    def create_pinned(
        *,
        dsk: dict[Any, Any],
        keys: set[Any],
        ordered: dict[Any, Any],
        actors: Any = None,
        annotations_by_type: dict[str, Any],
        global_annotations: dict[str, Any] | None,
        stimulus_id: str,
        **rest: Any,
    ) -> Any:
        arrival = Arrival(
            graph=dsk,
            by_type=annotations_by_type,
            common=dict(global_annotations or {}),
            keys=keys,
            order=ordered,
            actors=frozenset(keys if actors is True else actors or ()),
            layers=annotations_by_type.pop(_LAYERS, {}),
        )
        queued = before(arrival)
        metrics = create(
            dsk=dsk,
            keys=keys,
            ordered=ordered,
            actors=actors,
            annotations_by_type=annotations_by_type,
            global_annotations=arrival.common,
            stimulus_id=stimulus_id,
            **rest,
        )
        if queued:
            scheduler.transitions(dict.fromkeys(queued, "released"), stimulus_id)
        return metrics

    scheduler._create_taskstate_from_graph = create_pinned


def _hook_materialisation() -> None:
    """Hand the layers of a graph on, beside the annotations; only their tasks would be left."""
    import distributed.scheduler as module

    plain = module._materialize_graph
    if getattr(plain, "fed", False):
        return

    @wraps(plain)
    def materialize(expr: Any, validate: bool) -> tuple[Any, Any]:
        layers = layers_of(expr)
        graph, annotations = plain(expr=expr, validate=validate)
        if layers:
            annotations[_LAYERS] = layers
        return graph, annotations

    materialize.fed = True  # type: ignore[attr-defined]
    module._materialize_graph = materialize


def materialise(expr: Any) -> tuple[dict[Any, Any], dict[str, Any], dict[str, Any]]:
    """Return the tasks of an expression, annotations of its layers, and the layers, by name."""
    import distributed.scheduler as module

    _hook_materialisation()
    graph, annotations = module._materialize_graph(expr=expr, validate=False)
    return graph, annotations, annotations.pop(_LAYERS, {})


def layers_of(expr: Any) -> dict[str, Any]:
    """Return the layers of all high-level graphs in an expression, by name."""
    found: dict[str, Any] = {}
    waiting = [expr]
    while waiting:
        part = waiting.pop()
        if isinstance(part, HighLevelGraph):
            found.update(part.layers)
        elif isinstance(part, Expr):
            waiting.extend(part.operands)
    return found


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


def order(graph: Mapping[Any, Any]) -> dict[Any, int]:
    """Return the order in which Dask would run a graph's tasks, as a number by key."""
    from dask.order import order as dask_order

    numbers: dict[Any, int] = dask_order(dsk=dict(graph))
    return numbers


def flatten_keys(expr: Any) -> list[Any]:
    """Return the keys that an expression stands for."""
    return list(flatten(expr.__dask_keys__()))


def pickled(expr: Any) -> bytes:
    """Return an expression as a scheduler can read it, optimised as a client does."""
    from distributed.protocol import pickle

    return bytes(pickle.dumps(expr.optimize()))


def fail_tasks(scheduler: Any, errors: Mapping[Any, BaseException], stimulus_id: str) -> None:
    """Make tasks that wait fail, and with them all that depends on them.

    Parameters
    ----------
    scheduler
        A running scheduler.
    errors
        What each task fails with, by key.
    stimulus_id
        Names the cause in the scheduler's own log.
    """
    from distributed.protocol import pickle

    recommendations: dict[Any, Any] = {}
    for key, error in errors.items():
        recommendations |= scheduler.transition(
            key,
            "erred",
            stimulus_id=stimulus_id,
            cause=key,
            exception=pickle.dumps(error),
            exception_text=repr(error),
        )
    scheduler.transitions(recommendations, stimulus_id)
