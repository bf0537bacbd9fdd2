"""The marker that pins a task to a pool, and how it is put on and found again.

A pin is part of the task itself: its function is wrapped in `Pinned`. Annotations get lost
when Dask optimises a graph; a function does not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from dask.tokenize import normalize_token
from dask.utils import funcname

from fed import _dask_private as dask_private
from fed.errors import WrongPoolError
from fed.names import pools_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

T = TypeVar("T")

POOL_VARIABLE = "FED_POOL"
"""Environment variable of a worker process: the name of its pool."""

POOL_ATTRIBUTE = "__fed_pool__"
"""An object with this attribute (a pool's name), placed in a graph as data, is pinned."""


class Pinned:
    """A function that runs only on workers of one pool.

    What it builds, submits or computes by itself is pinned to that pool too: what it opens there
    lies there.

    Parameters
    ----------
    func
        The function of a task.
    pool
        The pool whose workers may call it.
    nbytes
        Size of what it returns, where whoever pinned it knows.

    Raises
    ------
    WrongPoolError
        When called anywhere else, before ``func`` is called.
    """

    __slots__ = ("__tornado_coroutine__", "__wrapped__", "nbytes", "pool")

    def __init__(self, func: Callable[..., Any], pool: str, nbytes: int | None = None) -> None:
        self.__wrapped__ = func
        self.pool = pool
        self.nbytes = nbytes
        # Tells a worker to await the result of a wrapped coroutine function.
        self.__tornado_coroutine__ = dask_private.is_coroutine_function(func)

    @property
    def __name__(self) -> str:
        return str(funcname(self.__wrapped__))

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function, if this is a worker of the pool."""
        here = pools_here()
        if self.pool not in here:
            raise _wrong_pool(self, here)
        if self.__tornado_coroutine__:
            return self._awaited(args, kwargs)
        with _building_in(self.pool):
            return self.__wrapped__(*args, **kwargs)

    async def _awaited(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with _building_in(self.pool):
            return await self.__wrapped__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Pinned, (self.__wrapped__, self.pool, self.nbytes)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Pinned)
            and self.pool == other.pool
            and bool(self.__wrapped__ == other.__wrapped__)
        )

    def __hash__(self) -> int:
        return hash((self.__wrapped__, self.pool))

    def __repr__(self) -> str:
        return f"Pinned({self.__name__}, {self.pool!r})"

    def __dask_tokenize__(self) -> tuple[str, str, object]:
        return "fed.Pinned", self.pool, normalize_token(self.__wrapped__)


def _building_in(pool: str) -> AbstractContextManager[None]:
    from fed.context import pinning  # which needs this module

    return pinning(pool)


def _wrong_pool(pinned: Pinned, here: frozenset[str]) -> WrongPoolError:
    place = f"in pool {', '.join(sorted(here))}" if here else "outside every pool"
    return WrongPoolError(
        f"{pinned.__name__} is pinned to pool {pinned.pool!r} but was called {place}, where its"
        " data may be missing or be other data. Compute it through the federation's client"
        " (fed.connect()), not with a local Dask scheduler; if it was, the scheduler does not"
        " run fed's extension (dask scheduler --preload fed.scheduler).",
        pool=pinned.pool,
        here=tuple(sorted(here)),
    )


def pools_here() -> frozenset[str]:
    """Return the pools of the worker that calls this; none outside a worker."""
    name = os.environ.get(POOL_VARIABLE)
    if name:
        return frozenset((name,))
    worker = dask_private.current_worker()
    return frozenset() if worker is None else pools_in(worker.state.total_resources)


def _literal(value: T) -> T:
    return value


def find_pools(node: object, memo: dict[int, frozenset[str]] | None = None) -> frozenset[str]:
    """Return the pools that pin a node of a graph, looking into everything fused into it.

    Parameters
    ----------
    node
        A `GraphNode`, a legacy tuple, or any value.
    memo
        Answers for the subgraphs that many tasks share, by identity. Pass one dictionary for
        all nodes of one graph, and drop it with the graph.
    """
    if isinstance(node, dask_private.DataNode):
        pool = getattr(node.value, POOL_ATTRIBUTE, None)
        return frozenset((pool,)) if isinstance(pool, str) else frozenset()
    if isinstance(node, dask_private.Task):
        return _pools_in_task(node, memo)
    if type(node) is tuple and node and callable(node[0]):
        return _pool_of_function(node[0]).union(*(find_pools(part, memo) for part in node[1:]))
    if type(node) is list:
        return frozenset().union(*(find_pools(part, memo) for part in node))
    return frozenset()


_WRAPPERS = 8
"""Wrappers around a function that are looked into. Some objects, such as a `Delayed`, have every
attribute that they are asked for: without a bound, one of them would stop the scheduler."""


def _pool_of_function(func: object) -> frozenset[str]:
    for _ in range(_WRAPPERS):
        if isinstance(func, Pinned):
            return frozenset((func.pool,))
        func = getattr(func, "func", None)  # functools.partial and its like
        if func is None:
            break
    return frozenset()


def _pools_in_task(task: Any, memo: dict[int, frozenset[str]] | None) -> frozenset[str]:
    found = _pool_of_function(task.func)
    arguments: Iterable[object] = task.args
    subgraph = dask_private.subgraph_of(task)
    if subgraph is not None:
        known = None if memo is None else memo.get(id(subgraph))
        if known is None:
            known = frozenset().union(*(find_pools(inner, memo) for inner in subgraph.values()))
            if memo is not None:
                memo[id(subgraph)] = known
        found |= known
        arguments = task.args[1:]
    for part in (*arguments, *task.kwargs.values()):
        if isinstance(part, dask_private.GraphNode):
            found |= find_pools(part, memo)
    return found


def pin_node(node: Any, pool: str) -> Any:
    """Return a node of a graph with the marker on it.

    A node that some pool has already marked is returned as it is. Aliases, containers of
    references and P2P barriers read no data, and are left alone.

    Parameters
    ----------
    node
        A `GraphNode`, or a legacy tuple.
    pool
        The pool to pin it to.
    """
    return node if find_pools(node) else _mark(node, pool)


def _mark(node: Any, pool: str) -> Any:
    if isinstance(node, dask_private.NestedContainer):
        return _mark_container(node, pool)
    if isinstance(node, dask_private.Task) and not dask_private.is_barrier(node):
        # Arguments that are tasks run before the function is called: each needs its own mark.
        return dask_private.rebuild_task(
            node,
            Pinned(node.func, pool),
            [_mark(part, pool) for part in node.args],
            {name: _mark(part, pool) for name, part in node.kwargs.items()},
        )
    if isinstance(node, dask_private.DataNode):
        return _mark_data(node, pool)
    if type(node) is tuple and node and callable(node[0]):
        return (Pinned(node[0], pool), *(_mark(part, pool) for part in node[1:]))
    return node


def _mark_container(node: Any, pool: str) -> Any:
    if any(isinstance(part, dask_private.Task) for part in node.args):
        return dask_private.rebuild_container(node, [_mark(part, pool) for part in node.args])
    return node


def _mark_data(node: Any, pool: str) -> Any:
    """Turn data into a task that returns it.

    Unpickling some data opens files (a file-like object of fsspec does), so it must happen
    in the right pool too.
    """
    return dask_private.Task(node.key, Pinned(_literal, pool), node.value, _data_producer=True)
