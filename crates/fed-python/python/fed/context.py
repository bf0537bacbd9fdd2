"""The context in which everything that is built is pinned to a pool."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import dask

from fed import _dask_private as dask_private
from fed.names import ANNOTATION, check_pool, resource_of, without_pools
from fed.pins import pin_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

_current: ContextVar[str | None] = ContextVar("fed_pool", default=None)


def current_pool() -> str | None:
    """Return the pool of the innermost `pool` block around the caller, if any."""
    return _current.get()


@contextmanager
def pool(name: str | None) -> Iterator[None]:
    """Pin everything that is built inside the block to a pool.

    Loading tasks made inside run only on workers of that pool, wherever and whenever they
    are computed; so does what is computed, persisted or submitted inside. The pool is a
    part of their keys, so that they are never mistaken for unpinned tasks. Blocks nest (the
    inner one wins) and are safe in threads and coroutines.

    The caller has to see the data, as any opener does. Where it does not, use `fed.load` or
    `fed.open_dataset`, which open it at the site.

    Parameters
    ----------
    name
        The pool. ``None`` lifts an outer pin from what is built inside.

    Raises
    ------
    UnknownPoolError
        If the current client's federation has no such pool.

    Examples
    --------
    >>> with fed.pool("ecmwf"):  # doctest: +SKIP
    ...     predictions = xarray.open_dataset("/data/ecmwf/p.nc", chunks={})
    """
    if name is not None:
        check_pool(name, _known_pools(name))
    try:
        with pinning(name):
            yield
    except FileNotFoundError as error:
        if name is not None:
            error.add_note(
                f"fed.pool({name!r}) pins tasks, but opens nothing by itself: this process cannot"
                f" see that file. To open it at the site, use fed.open_dataset(path) or"
                f" fed.load(opener, path, pool={name!r})."
            )
        raise


@contextmanager
def pinning(name: str | None) -> Iterator[None]:
    """Pin what is built inside, as `pool` does, without its checks and hints.

    Parameters
    ----------
    name
        The pool, or None to lift an outer pin.
    """
    if name is not None:
        install()
    token = _current.set(name)
    try:
        with _annotated(name):
            yield
    finally:
        _current.reset(token)


def propagate_pools() -> AbstractContextManager[None]:
    """Do nothing: pins are always propagated.

    Kept so that notebooks written for the prototype of 2022 run.
    """
    return nullcontext()


def install() -> None:
    """Put the hooks that `pool` needs into Dask's graph construction; once per process."""
    dask_private.hook_tokens(current_pool, _hook_frames)
    dask_private.hook_layers(ANNOTATION, pin_node)


def _hook_frames() -> None:
    from fed.graphs import pin_expression

    dask_private.hook_frames(ANNOTATION, current_pool, pin_expression)


def _annotated(name: str | None) -> AbstractContextManager[None]:
    outer = dask.get_annotations()
    if name is None and ANNOTATION not in outer:
        return nullcontext()
    resources = outer.get("resources")
    if callable(resources):
        mixed: Any = partial(_resources_of_key, resources, name)
    else:
        mixed = _resources(resources, name)
    annotated: AbstractContextManager[None] = dask.annotate(
        **{"resources": mixed, ANNOTATION: name}
    )
    return annotated


def _resources(resources: dict[str, Any] | None, name: str | None) -> dict[str, Any]:
    others = without_pools(resources)
    return others if name is None else {**others, resource_of(name): 0}


def _resources_of_key(resources: Any, name: str | None, key: Any) -> dict[str, Any]:
    return _resources(resources(key), name)


def _known_pools(name: str) -> tuple[str, ...]:
    from fed.federation import pools_of_current_client

    return tuple(entry.name for entry in pools_of_current_client(wanted=name))
