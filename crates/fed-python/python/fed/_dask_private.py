"""Every private name of Dask that fed touches, in one place.

Nothing else in the package may use a private name of Dask. `missing` says which of them
an installed version lacks; a test fails on each, and the scheduler refuses to start.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from contextvars import Context
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dask._task_spec import (
    Alias,
    DataNode,
    GraphNode,
    NestedContainer,
    Task,
    TaskRef,
    _execute_subgraph,
    convert_legacy_graph,
)
from dask.base import get_annotations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Alias",
    "DataNode",
    "GraphNode",
    "NestedContainer",
    "Task",
    "TaskRef",
    "convert_legacy_graph",
]

USED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("dask._expr", "Expr.optimize", ("self",)),
    ("dask._task_spec", "Alias.__init__", ("self", "key", "target")),
    ("dask._task_spec", "DataNode.__init__", ("self", "key", "value")),
    ("dask._task_spec", "Dict", ()),
    ("dask._task_spec", "GraphNode.substitute", ("self", "subs", "key")),
    ("dask._task_spec", "NestedContainer.__init__", ("self", "args", "kwargs")),
    ("dask._task_spec", "Task.__init__", ("self", "key", "func", "args", "_data_producer")),
    ("dask._task_spec", "TaskRef.__init__", ("self", "key")),
    ("dask._task_spec", "_execute_subgraph", ("inner_dsk", "outkey", "inkeys", "dependencies")),
    ("dask._task_spec", "convert_legacy_graph", ("dsk",)),
    ("dask.base", "clone_key", ("key", "seed")),
    ("dask.blockwise", "Blockwise.__init__",
     ("self", "output", "output_indices", "task", "indices", "numblocks", "concatenate",
      "new_axes", "output_blocks", "annotations", "io_deps")),
    ("dask.highlevelgraph", "MaterializedLayer.__init__", ("self", "mapping", "annotations")),
    ("dask.tokenize", "_tokenize", ("args", "kwargs")),
    ("distributed.scheduler", "Scheduler._create_taskstate_from_graph",
     ("self", "dsk", "annotations_by_type", "global_annotations", "stimulus_id")),
    ("distributed.nanny", "Nanny.close_gracefully", ("self", "reason")),
    ("distributed.scheduler", "Scheduler.decide_worker_non_rootish", ("self", "ts")),
    ("distributed.scheduler", "Scheduler.transitions", ("self", "recommendations", "stimulus_id")),
    ("distributed.scheduler", "Scheduler.valid_workers", ("self", "ts")),
    ("distributed.scheduler", "Scheduler.worker_objective", ("self", "ts", "ws")),
    ("distributed.shuffle._core", "barrier_key", ("shuffle_id",)),
    ("distributed.shuffle._scheduler_plugin", "ShuffleSchedulerPlugin._calculate_worker_for",
     ("self", "spec")),
    ("distributed.stealing", "WorkStealing.__init__", ("self", "scheduler")),
    ("distributed.stealing", "WorkStealing._get_thief",
     ("self", "scheduler", "ts", "potential_thieves", "occupancies")),
    ("distributed.stealing", "WorkStealing.log", ("self", "msg")),
    ("distributed.stealing", "WorkStealing.stop", ("self",)),
    ("distributed.stealing", "WorkStealing.start", ("self", "scheduler")),
)  # fmt: skip
"""Module, name, and the parameters that fed relies on (empty: only the name)."""

USED_WITH_FRAMES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("dask.dataframe.dask_expr._collection", "FrameBase.__init__", ("self", "expr")),
    ("dask.dataframe.dask_expr.io.io", "FromGraph", ()),
)
"""The same for dask.dataframe, which not every installation has."""


def missing(used: tuple[tuple[str, str, tuple[str, ...]], ...] = USED) -> list[str]:
    """Return the names of Dask that fed uses and that this installation lacks.

    Returns
    -------
    list of str
        ``module:name``, with the parameters that are gone; empty when all is well.
    """
    gaps = []
    for module, name, parameters in used:
        target: Any = None
        try:
            target = import_module(module)
            for part in name.split("."):
                target = getattr(target, part)
        except (ImportError, AttributeError):
            gaps.append(f"{module}:{name}")
            continue
        present = inspect.signature(target).parameters if parameters else ()
        lost = [parameter for parameter in parameters if parameter not in present]
        if lost:
            gaps.append(f"{module}:{name}({', '.join(lost)})")
    return gaps


# -- tasks -----------------------------------------------------------------------------------


def subgraph_of(task: Any) -> Mapping[Any, Any] | None:
    """Return the graph that a fused task runs inside itself, if it is one."""
    func = getattr(task.func, "__wrapped__", task.func)
    if func is _execute_subgraph and task.args and isinstance(task.args[0], dict):
        return task.args[0]
    return None


def rebuild_task(
    task: Any, func: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> Any:
    """Return a copy of a `Task` with another function and other arguments."""
    return Task(task.key, func, *args, _data_producer=task.data_producer, **kwargs)


def rebuild_container(node: Any, args: list[Any]) -> Any:
    """Return a copy of a `List`, `Tuple`, `Set` or `Dict` node with other elements."""
    copy = type(node)(*args)
    copy.key = node.key
    return copy


def rename_node(node: Any, key: Any, renamed: Mapping[Any, Any]) -> Any:
    """Return a node under another key, with its references renamed."""
    if isinstance(node, Alias):
        return Alias(key, renamed.get(node.target, node.target))
    mine = {old: renamed[old] for old in node.dependencies if old in renamed}
    changed = node.substitute(mine) if mine else node
    if isinstance(node, NestedContainer):
        changed = rebuild_container(changed, list(changed.args))
        changed.key = key
        return changed
    return changed if key == changed.key else changed.substitute({}, key=key)


def rename_blockwise(layer: Any, names: Mapping[str, str]) -> Any | None:
    """Return a copy of a `Blockwise` layer with its output and inputs renamed.

    Returns
    -------
    Blockwise or None
        None if the layer refers to other tasks one by one, so that it has to be materialised.
    """
    from dask.blockwise import Blockwise

    if any(dependency.produces_keys for dependency in layer.io_deps.values()):
        return None
    indices = []
    for name, index in layer.indices:
        if isinstance(name, TaskRef):
            indices.append((TaskRef(rename_key(name.key, names)), index))
        elif index is not None:
            indices.append((names.get(name, name), index))
        else:
            indices.append((name, index))
    output = names.get(layer.output, layer.output)
    return Blockwise(
        output=output,
        output_indices=layer.output_indices,
        task=layer.task.substitute({}, key=output),
        indices=indices,
        numblocks={names.get(name, name): blocks for name, blocks in layer.numblocks.items()},
        concatenate=layer.concatenate,
        new_axes=layer.new_axes,
        output_blocks=layer.output_blocks,
        annotations=layer.annotations,
        io_deps=layer.io_deps,
    )


def rename_key(key: Any, names: Mapping[str, str]) -> Any:
    """Return a key with the name in it replaced, if that name has another."""
    if isinstance(key, str):
        return names.get(key, key)
    if isinstance(key, tuple) and key and isinstance(key[0], str) and key[0] in names:
        return (names[key[0]], *key[1:])
    return key


def name_of_key(key: Any) -> str | None:
    """Return the name in a key: the collection or layer that it belongs to."""
    name = key[0] if isinstance(key, tuple) and key else key
    return name if isinstance(name, str) else None


def is_barrier(node: object) -> bool:
    """Tell whether a node is the barrier of a P2P shuffle, which has to keep its type and key."""
    return (
        isinstance(node, Task) and not isinstance(node, NestedContainer) and type(node) is not Task
    )


def is_future(node: object) -> bool:
    """Tell whether a node stands for a result that the cluster already holds."""
    return isinstance(node, TaskRef) or bool(getattr(node, "__dask_future__", False))


def is_coroutine_function(func: object) -> bool:
    """Tell whether a worker has to await what ``func`` returns."""
    from distributed.utils import iscoroutinefunction

    return bool(iscoroutinefunction(func))


def current_worker() -> Any | None:
    """Return the worker whose task is running in this thread, if any."""
    if "distributed.worker" not in sys.modules:
        return None
    from distributed.worker import get_worker

    try:
        return get_worker()
    except ValueError:
        return None


# -- graph construction ----------------------------------------------------------------------


def hook_tokens(current_pool: Callable[[], str | None], on_token: Callable[[], None]) -> None:
    """Make the current pool a part of every token, and so of every key.

    `dask.tokenize.tokenize` looks `_tokenize` up in its module at each call.

    Parameters
    ----------
    current_pool
        Returns the pool of the calling context.
    on_token
        Called before a token is made inside a pool.
    """
    import dask.tokenize as module

    plain = module._tokenize
    if getattr(plain, "fed", False):
        return

    @wraps(plain)
    def _tokenize(*args: object, **kwargs: object) -> str:
        pool = current_pool()
        if pool is None:
            return str(plain(*args, **kwargs))
        on_token()
        token = f"{plain(*args, **kwargs)}@{pool}"
        return hashlib.md5(token.encode(), usedforsecurity=False).hexdigest()

    _tokenize.fed = True  # type: ignore[attr-defined]
    module._tokenize = _tokenize


def hook_layers(annotation: str, pin: Callable[[Any, str], Any]) -> None:
    """Mark the tasks of every layer that is built with a pool's annotation.

    Parameters
    ----------
    annotation
        The annotation that holds the pool.
    pin
        Returns a task, marked.
    """
    from dask.blockwise import Blockwise
    from dask.highlevelgraph import MaterializedLayer

    if getattr(Blockwise.__init__, "fed", False):
        return
    plain_blockwise = Blockwise.__init__
    plain_materialized = MaterializedLayer.__init__

    @wraps(plain_blockwise)
    def init_blockwise(self: Any, *args: Any, **kwargs: Any) -> None:
        plain_blockwise(self, *args, **kwargs)
        pool = (self.annotations or {}).get(annotation)
        if isinstance(pool, str):
            self.task = pin(self.task, pool)

    @wraps(plain_materialized)
    def init_materialized(self: Any, mapping: Any, *args: Any, **kwargs: Any) -> None:
        plain_materialized(self, mapping, *args, **kwargs)
        given = (self.annotations or {}).get(annotation)
        if given is None:
            return
        pinned = {}
        for key, value in mapping.items():
            pool = given(key) if callable(given) else given
            # Where Dask has merged layers, keys without a pool have a placeholder.
            pinned[key] = pin(value, pool) if isinstance(pool, str) else value
        self.mapping = pinned

    init_blockwise.fed = True  # type: ignore[attr-defined]
    Blockwise.__init__ = init_blockwise
    MaterializedLayer.__init__ = init_materialized


def hook_frames(
    annotation: str, current_pool: Callable[[], str | None], pin: Callable[[Any, str], Any]
) -> None:
    """Pin every dask.dataframe source that is made inside a pool.

    Expressions keep no annotations. Does nothing until dask.dataframe has been imported.

    Parameters
    ----------
    annotation
        The annotation that holds the pool.
    current_pool
        Returns the pool of the calling context.
    pin
        Returns an expression, pinned.
    """
    module = sys.modules.get("dask.dataframe.dask_expr._collection")
    if module is None or not hasattr(module, "FrameBase"):
        return
    frame = module.FrameBase
    if getattr(frame.__init__, "fed", False):
        return
    plain = frame.__init__

    @wraps(plain)
    def init(self: Any, expr: Any) -> None:
        pool = current_pool()
        if pool is not None and not expr.dependencies() and not is_graph_expression(expr):
            expr = pin(expr, pool)
        if pool is not None and get_annotations().keys() <= {annotation, "resources"}:
            # In an empty context it sees no annotations, and does not warn that it ignores them.
            Context().run(plain, self, expr)
        else:
            plain(self, expr)

    init.fed = True  # type: ignore[attr-defined]
    frame.__init__ = init


def is_frame(collection: object) -> bool:
    """Tell whether a collection is a dask.dataframe one."""
    module = sys.modules.get("dask.dataframe.dask_expr._collection")
    return module is not None and isinstance(collection, module.FrameBase)


def is_graph_expression(expr: object) -> bool:
    """Tell whether a dask.dataframe expression was made from a materialised graph."""
    from dask.dataframe.dask_expr.io.io import FromGraph

    return isinstance(expr, FromGraph)


def graph_expression(expr: Any, layer: dict[Any, Any], keys: list[Any], prefix: str) -> Any:
    """Return an expression like ``expr`` that is made from a materialised graph."""
    from dask.dataframe.dask_expr.io.io import FromGraph

    return FromGraph(
        layer=layer, _meta=expr._meta, divisions=expr.divisions, keys=keys, name_prefix=prefix
    )


def clone_key(key: Any, seed: str) -> Any:
    """Return a key with the same prefix and indices and another token."""
    from dask.base import clone_key as clone

    return clone(key, seed)


# -- scheduler and client --------------------------------------------------------------------


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


def hook_nannies(on_end: Callable[[str], object]) -> None:
    """Call a function when a worker tells its nanny, in this process, not to start it again.

    Parameters
    ----------
    on_end
        Takes the reason, as the worker gives it.
    """
    from distributed.nanny import Nanny

    plain = Nanny.close_gracefully

    @wraps(plain)
    def close_gracefully(self: Any, reason: str = "nanny-close-gracefully") -> None:
        on_end(reason)
        plain(self, reason=reason)

    Nanny.close_gracefully = close_gracefully


def scheduler_identity(client: Any) -> dict[str, Any]:
    """Return what a client knows of its scheduler, without asking it."""
    return dict(client._scheduler_identity)
