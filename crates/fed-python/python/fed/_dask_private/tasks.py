"""Nodes of task graphs: what they are, and copies of them."""

from __future__ import annotations

import sys
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "Alias",
    "DataNode",
    "GraphNode",
    "NestedContainer",
    "Task",
    "TaskRef",
    "convert_legacy_graph",
]


def is_fused(node: Any) -> bool:
    """Tell whether a node is a task that runs others inside itself."""
    return isinstance(node, Task) and subgraph_of(node) is not None


def subgraph_of(task: Any) -> Mapping[Any, Any] | None:
    """Return the graph that a fused task runs inside itself, if it is one."""
    func = getattr(task.func, "__wrapped__", task.func)
    if func is _execute_subgraph and task.args and isinstance(task.args[0], dict):
        return task.args[0]
    return None


def nodes_inside(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the key and the node of everything that was fused into a node."""
    inside = subgraph_of(node) if isinstance(node, Task) else None
    for key, inner in (inside or {}).items():
        yield key, inner
        yield from nodes_inside(inner)


def blocks_fusion(node: Any) -> bool:
    """Tell whether a node must stay a task of its own; a worker awaits no coroutine in another."""
    return bool(getattr(node, "block_fusion", False) or getattr(node, "is_coro", False))


def fuse(nodes: list[Any]) -> Any:
    """Return one task that runs nodes one after the other, under the key of the last."""
    return Task.fuse(*nodes)


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


def is_rechunk(key: Any) -> bool:
    """Tell whether a task that sends shards of a peer-to-peer shuffle sends those of an array."""
    return (name_of_key(key) or str(key)).startswith("rechunk-")


def pickle_function(func: Any) -> bytes:
    """Return a function as Dask sends it."""
    from distributed.protocol.pickle import dumps

    return bytes(dumps(func))


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


def clone_key(key: Any, seed: str) -> Any:
    """Return a key with the same prefix and indices and another token."""
    from dask.base import clone_key as clone

    return clone(key, seed)
