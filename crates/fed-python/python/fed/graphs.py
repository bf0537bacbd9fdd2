"""Pins every task of a lazy object that has already been built."""

from __future__ import annotations

from typing import Any, TypeVar

import dask
from dask.blockwise import Blockwise
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from fed import _dask_private as dask_private
from fed.errors import FedError
from fed.names import ANNOTATION, check_pool, resource_of, without_pools
from fed.parquet import partition_bytes, pin_read
from fed.pins import Pinned, find_pools, pin_node

T = TypeVar("T")


def pin_collection(obj: T, pool: str) -> T:
    """Return a lazy object, every task of which is pinned to a pool.

    The object stays lazy, and as symbolic as it was (a blockwise layer stays one task and an
    index pattern). Keys that do not know the pool yet are renamed, so that the result is never
    mistaken for the unpinned object. Tasks that are pinned already stay as they are.

    Parameters
    ----------
    obj
        A dask array, bag, delayed or dataframe, an xarray object, any other Dask collection, or
        a list, tuple or dictionary of them. A dataframe's expression is optimised and
        materialised first, unless all it does is to read parquet files, partition by partition.
    pool
        The pool to pin it to.

    Raises
    ------
    UnknownPoolError
        If ``pool`` is no possible name of a pool.
    FedError
        If ``obj`` is a Dask collection of a kind that cannot be rebuilt, or was rechunked or
        shuffled peer to peer.
    """
    check_pool(pool)
    return _pin(obj, pool)  # type: ignore[no-any-return]


def _pin(obj: Any, pool: str) -> Any:
    if isinstance(obj, dict):
        return {key: _pin(value, pool) for key, value in obj.items()}
    if type(obj) in (list, tuple):
        return type(obj)(_pin(value, pool) for value in obj)
    if is_tree(obj):
        return _pin_tree(obj, pool)
    if not dask.is_dask_collection(obj):
        return obj
    if dask_private.is_frame(obj):
        return type(obj)(pin_expression(obj.expr, pool))
    graph = obj.__dask_graph__()
    if not hasattr(obj, "__dask_postpersist__") or not isinstance(graph, (HighLevelGraph, dict)):
        raise FedError(
            f"a {type(obj).__module__}.{type(obj).__name__} cannot be pinned to pool {pool!r},"
            " because Dask gives no way to rebuild it. Return a dask array, bag, delayed or"
            " dataframe, or an xarray object (if it is an array expression, set"
            " dask.config.set({'array.query-planning': False})).",
            kind=type(obj).__name__,
        )
    if not isinstance(graph, HighLevelGraph):
        name = str(next(flatten(obj.__dask_keys__())))
        graph = HighLevelGraph.from_collections(name, graph)
    pinned, renamed = pin_graph(graph, pool)
    rebuild, args = obj.__dask_postpersist__()
    return rebuild(pinned, *args, rename=renamed) if renamed else rebuild(pinned, *args)


def is_tree(obj: object) -> bool:
    """Tell whether an object is an `xarray.DataTree`, without importing xarray."""
    # Its type is asked, as a Delayed claims to have every attribute.
    return hasattr(type(obj), "subtree") and hasattr(type(obj), "to_dataset")


def _pin_tree(tree: Any, pool: str) -> Any:
    nodes = {node.path: _pin(node.to_dataset(inherit=False), pool) for node in tree.subtree}
    return type(tree).from_dict(nodes, name=tree.name)


def pin_graph(graph: Any, pool: str) -> tuple[Any, dict[str, str]]:
    """Pin every task of a high-level graph.

    Parameters
    ----------
    graph
        A `HighLevelGraph`.
    pool
        The pool to pin it to.

    Returns
    -------
    graph
        The pinned `HighLevelGraph`.
    renamed
        New names of the layers, and of the collections in them, whose keys did not know the
        pool yet, by old name.
    """
    seed = _seed(pool)
    bare = [layer for layer in graph.layers.values() if not _is_settled(layer)]
    names = {name for layer in bare for name in _names_in(layer)}
    renamed = {name: dask_private.clone_key(name, seed) for name in names}
    layers = {}
    for name, layer in graph.layers.items():
        marked = _pin_layer(layer, pool, renamed, graph)
        if marked is not layer:
            marked.annotations = _annotations(layer.annotations, pool)
        layers[renamed.get(name, name)] = marked
    dependencies = {
        renamed.get(name, name): {renamed.get(other, other) for other in others}
        for name, others in graph.dependencies.items()
    }
    return HighLevelGraph(layers, dependencies), renamed


def _seed(pool: str) -> str:
    return f"fed-pool-{pool}"


def _names_in(layer: Layer) -> set[str]:
    if isinstance(layer, Blockwise):
        return {layer.output}
    return {name for key in layer if (name := dask_private.name_of_key(key)) is not None}


def _is_settled(layer: Layer) -> bool:
    """Tell whether a layer's keys know a pool already, or its results are in memory."""
    if isinstance((layer.annotations or {}).get(ANNOTATION), str):
        return True
    if isinstance(layer, Blockwise):
        return bool(find_pools(layer.task))
    memo: dict[int, frozenset[str]] = {}
    return any(find_pools(node, memo) for node in layer.values()) or all(
        dask_private.is_future(node) for node in layer.values()
    )


def _pin_layer(layer: Layer, pool: str, names: dict[str, str], graph: Any) -> Layer:
    if isinstance(layer, Blockwise):
        copy = dask_private.rename_blockwise(layer, names)
        if copy is not None:
            copy.task = pin_node(copy.task, pool)
            return copy
    if all(dask_private.is_future(node) for node in layer.values()):
        return layer
    keys = graph.get_all_external_keys() if layer.has_legacy_tasks else set(layer)
    nodes = dask_private.convert_legacy_graph(dict(layer), keys)
    return MaterializedLayer(_pin_nodes(nodes, pool, names))


def _pin_nodes(nodes: dict[Any, Any], pool: str, names: dict[str, str]) -> dict[Any, Any]:
    pinned = {}
    for key, node in nodes.items():
        new_key = dask_private.rename_key(key, names)
        if new_key != key and dask_private.is_barrier(node):
            raise FedError(
                f"{key!r} belongs to a P2P rechunk or shuffle, which cannot be pinned to pool"
                f" {pool!r} after it was built. Rechunk or shuffle what is pinned, or do both"
                f" inside `with fed.pool({pool!r})`.",
                task=key,
            )
        references = {old: dask_private.rename_key(old, names) for old in node.dependencies}
        pinned[new_key] = pin_node(dask_private.rename_node(node, new_key, references), pool)
    return pinned


def _annotations(annotations: Any, pool: str) -> dict[str, Any]:
    """Return a layer's annotations with the pool in them.

    The scheduler reads the marker; these keep Dask from fusing layers of different pools.
    """
    mine = dict(annotations or {})
    resources = mine.get("resources")
    others = {} if callable(resources) else without_pools(resources)
    return {**mine, ANNOTATION: pool, "resources": {**others, resource_of(pool): 0}}


def pin_expression(expr: Any, pool: str) -> Any:
    """Return a dask.dataframe expression, pinned.

    Reads of parquet files stay symbolic, so that Dask reads the columns and rows that are needed in
    the end. Anything else is materialised, with every task pinned.

    Parameters
    ----------
    expr
        The expression of a dataframe, series, index or scalar.
    pool
        The pool to pin it to.
    """
    symbolic = dask_private.pin_reads(expr, lambda read: pin_read(read, pool))
    if symbolic is not None:
        return symbolic
    best = expr.optimize()
    nodes = dask_private.convert_legacy_graph(best.__dask_graph__())
    if all(find_pools(node) for node in nodes.values() if _calls(node)):
        return expr
    names = {
        name: dask_private.clone_key(name, _seed(pool))
        for name in {dask_private.name_of_key(key) for key in nodes}
        if name is not None
    }
    layer = _pin_nodes(nodes, pool, names)
    for key, nbytes in partition_bytes(nodes).items():
        func = getattr(layer[dask_private.rename_key(key, names)], "func", None)
        if isinstance(func, Pinned):
            func.nbytes = nbytes
    keys = [dask_private.rename_key(key, names) for key in flatten(best.__dask_keys__())]
    return dask_private.graph_expression(best, layer, keys, f"pinned-{pool}")


def _calls(node: Any) -> bool:
    return isinstance(node, dask_private.Task | dask_private.DataNode)
