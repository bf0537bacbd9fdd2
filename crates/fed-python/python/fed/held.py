"""How many bytes of data a lazy object carries in its graph, where it seems to be lazy."""

from __future__ import annotations

from typing import Any

from dask.blockwise import Blockwise

from fed import _dask_private as dask_private
from fed.sizes import SMALL, bytes_of_data

_WRAPPERS = 8
"""Wrappers of xarray around an array that are looked into."""


def bytes_held(collection: Any) -> int:
    """Return the bytes of arrays and tables that are a part of a collection's graph.

    Parameters
    ----------
    collection
        A Dask collection. What its tasks would read does not count.
    """
    if dask_private.is_frame(collection):
        return sum(_bytes_of(part) for part in dask_private.frames_held(collection.expr))
    graph = collection.__dask_graph__()
    layers = getattr(graph, "layers", None)
    if layers is None:
        return sum(_bytes_of(node) for node in graph.values())
    return sum(_bytes_of_layer(layer) for layer in layers.values())


def _bytes_of_layer(layer: Any) -> int:
    if isinstance(layer, Blockwise):
        literals = [value for value, index in layer.indices if index is None]
        return sum(_bytes_of(value) for value in literals)
    return sum(_bytes_of(node) for node in layer.values())


def _bytes_of(node: Any) -> int:
    if isinstance(node, dask_private.Task):
        return sum(_bytes_of(part) for part in node.args)
    value = node.value if isinstance(node, dask_private.DataNode) else node
    for _ in range(_WRAPPERS):
        if not type(value).__module__.startswith("xarray.core.indexing"):
            break
        value = getattr(value, "array", None)
    size = bytes_of_data(value)
    return 0 if size <= SMALL else size
