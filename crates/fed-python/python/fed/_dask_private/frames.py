"""Expressions of dask.dataframe."""

from __future__ import annotations

import sys
from contextvars import Context
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

from dask.base import get_annotations

if TYPE_CHECKING:
    from collections.abc import Callable


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


@dataclass(frozen=True)
class ParquetRead:
    """What a task reads from parquet files."""

    files: Any
    """The file system, of fsspec."""
    pieces: list[tuple[str, list[int] | None]]
    """Paths, and the numbers of row groups; None for all."""
    types: dict[str, Any]
    """Types of the columns, and of the index if it is stored, by name."""


def parquet_read(node: Any) -> ParquetRead | None:
    """Return what a task reads from parquet files; None if it reads nothing of the kind."""
    func: Any = getattr(node, "func", None)
    if type(func).__name__ != "ParquetFunctionWrapper" or not node.args:
        return None
    parts: list[Any] = node.args[0] if isinstance(node.args[0], list) else [node.args[0]]
    types = {str(name): dtype for name, dtype in func.meta.dtypes.items()}
    if func.meta.index.name is not None:
        types[str(func.meta.index.name)] = func.meta.index.dtype
    pieces = [(part.data if hasattr(part, "data") else part)["piece"] for part in parts]
    return ParquetRead(func.fs, [(piece[0], piece[1]) for piece in pieces], types)


def frames_held(expr: Any) -> list[Any]:
    """Return the pandas objects that an expression was made from, and nodes of its graphs."""
    from dask.dataframe.dask_expr.io.io import FromGraph, FromPandas

    frames = {id(part.frame): part.frame for part in expr.find_operations(FromPandas)}
    graphs = expr.find_operations(FromGraph)
    nodes = [node for part in graphs for node in part.operand("layer").values()]
    return [*(getattr(frame, "_data", frame) for frame in frames.values()), *nodes]


def pin_reads(expr: Any, pin: Callable[[Any], Any]) -> Any | None:
    """Return an expression whose reads are pinned, still symbolic; see `reads.pin_reads`."""
    from fed._dask_private import reads  # needs dask.dataframe, which not everyone has

    return reads.pin_reads(expr, pin)


def tasks_of_read(read: Any) -> dict[int, Any]:
    """Return the tasks of all partitions of a read, by number."""
    return {part: read._filtered_task(("read", part), part) for part in read._partitions}
