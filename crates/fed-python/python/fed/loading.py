"""Opens data where it lies: the opener runs at the site, its lazy result comes back pinned."""

from __future__ import annotations

import os
import pickle
import sys
import uuid
from typing import TYPE_CHECKING, Any

from dask.utils import funcname

from fed import _dask_private as dask_private
from fed.catalogs import catalog, is_path_like
from fed.client import current_client
from fed.context import pinning
from fed.errors import AmbiguousPathError, MissingModuleError, UnknownPathError
from fed.federation import pools_of_current_client
from fed.graphs import pin_collection
from fed.laziness import check_lazy, read_small
from fed.names import check_pool, resource_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

OPEN_PRIORITY = 100
"""Opening reads metadata only and someone waits for it, so it goes before computations."""


def load(func: Callable[..., Any], /, *args: Any, pool: str | None = None, **kwargs: Any) -> Any:
    """Run a lazy opener on a worker of a pool, and return its lazy result, pinned.

    The caller needs no access to the data: only metadata leaves the site.

    Parameters
    ----------
    func
        The opener, such as `xarray.open_zarr`. It has to return a dask array, bag, delayed or
        dataframe, an xarray object made of dask arrays, or a list, tuple or dictionary of them.
    *args, **kwargs
        Its arguments.
    pool
        The pool that holds the data; by default, the one that the catalog (`fed.catalog`) finds
        for the first argument that is a path, URL, or list of them.

    Returns
    -------
    object
        What ``func`` returned, all of its tasks pinned to the pool. An awaitable of it, if the
        current client is asynchronous.

    Raises
    ------
    NotLazyError
        If ``func`` returned data. The data has not left the site.
    UnknownPathError, AmbiguousPathError
        If no pool is given and the catalog finds none, or several.
    UnknownPoolError
        If there is no such pool.
    MissingModuleError
        If the site's workers cannot import what ``func`` needs.
    NotRunningError
        If there is no client.
    Exception
        Whatever ``func`` raised, with a note that says where.

    Examples
    --------
    >>> fed.load(xarray.open_zarr, "/archive/obs.zarr", pool="eumetsat")  # doctest: +SKIP
    """
    client = current_client()
    if pool is None:
        pool = _pool_of_arguments(func, args, kwargs)
    known = pools_of_current_client(wanted=pool)
    check_pool(pool, (entry.name for entry in known))
    site = next((entry.site for entry in known if entry.name == pool), None)
    # The key is new each time: an open that failed, or that saw older files, is not used again.
    key = f"fed-load-{funcname(func)}-{uuid.uuid4().hex}"
    with pinning(pool):
        future = client.submit(
            open_here,
            dask_private.pickle_function(func),
            args,
            kwargs,
            pool,
            site,
            key=key,
            pure=False,
            resources={resource_of(pool): 0},
            priority=OPEN_PRIORITY,
        )
    return client.sync(_collect, client, future, funcname(func), pool, site)


async def _collect(client: Any, future: Any, opener: str, pool: str, site: str | None) -> Any:
    try:
        return await client.gather(future, asynchronous=True)
    except Exception as error:
        error.add_note(f"fed.load was running {opener} in {_place(pool, site)}.")
        raise


def _place(pool: str, site: str | None) -> str:
    return f"pool {pool!r}" + (f" at site {site!r}" if site else "")


def open_here(
    pickled: bytes, args: tuple[Any, ...], kwargs: dict[str, Any], pool: str, site: str | None
) -> Any:
    """Open data on the worker that this runs on, and return it lazy and pinned.

    The opener comes pickled: a worker that cannot import what it needs would end as it receives
    it, and the next, instead of telling.

    Raises
    ------
    NotLazyError
        If the opener returned data; the error travels to the client, the data does not.
    MissingModuleError
        If the opener needs a module that this worker does not have.
    """
    try:
        func = pickle.loads(pickled)  # noqa: S301 - clients run any code on workers anyway
    except ImportError as error:
        raise _missing_module(error, pool, site) from error
    with pinning(pool):
        opened = func(*args, **kwargs)
        check_lazy(opened, funcname(func))
        read_small(opened)
        return pin_collection(opened, pool)


def _missing_module(error: ImportError, pool: str, site: str | None) -> MissingModuleError:
    worker = dask_private.current_worker()
    name = str(worker.name) if worker is not None else ""
    return MissingModuleError(
        f"worker {name!r} of {_place(pool, site)} cannot import"
        f" {error.name or 'what the opener needs'!r} ({error}). The site's administrator has to"
        " install it, in the version that you have, into the environment that agent.toml names as"
        f" `python`: {sys.executable}.",
        module=error.name,
        worker=name,
        pool=pool,
        site=site,
    )


_OWN_CHUNKS: dict[str, int] = {}


def open_dataset(
    path: Any, pool: str | None = None, *, chunks: Any = _OWN_CHUNKS, **kwargs: Any
) -> Any:
    """Open one dataset at the site that holds it.

    Parameters
    ----------
    path
        Path or URL, as the workers of that site see it.
    pool
        The pool; by default the one that the catalog finds for ``path``.
    chunks
        As in `xarray.open_dataset`; by default the file's own chunks (``{}``).
    **kwargs
        Passed on to `xarray.open_dataset`.

    Returns
    -------
    xarray.Dataset
        Lazy and pinned. See `load`, also for what it raises.
    """
    import xarray

    return load(xarray.open_dataset, path, pool=pool, chunks=chunks, **kwargs)


def open_zarr(
    store: Any, pool: str | None = None, *, chunks: Any = _OWN_CHUNKS, **kwargs: Any
) -> Any:
    """Open a zarr store at the site that holds it.

    Parameters
    ----------
    store
        Path or URL, as the workers of that site see it.
    pool
        The pool; by default the one that the catalog finds for ``store``.
    chunks
        As in `xarray.open_zarr`; by default the store's own chunks (``{}``).
    **kwargs
        Passed on to `xarray.open_zarr`.

    Returns
    -------
    xarray.Dataset
        Lazy and pinned. See `load`, also for what it raises.
    """
    import xarray

    return load(xarray.open_zarr, store, pool=pool, chunks=chunks, **kwargs)


def open_mfdataset(
    paths: Any, pool: str | None = None, *, chunks: Any = _OWN_CHUNKS, **kwargs: Any
) -> Any:
    """Open several files of one site as one dataset.

    Parameters
    ----------
    paths
        A list of paths or URLs, or a pattern, as the workers of that site see them. All of them
        have to be in one pool.
    pool
        The pool; by default the one that the catalog finds for them.
    chunks
        As in `xarray.open_mfdataset`; by default each file's own chunks (``{}``).
    **kwargs
        Passed on to `xarray.open_mfdataset`.

    Returns
    -------
    xarray.Dataset
        Lazy and pinned. See `load`, also for what it raises.
    """
    import xarray

    return load(xarray.open_mfdataset, paths, pool=pool, chunks=chunks, **kwargs)


def _pool_of_arguments(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    for argument in (*args, *kwargs.values()):
        paths = list(_paths_in(argument))
        if paths:
            return _pool_of_paths(paths)
    if args and isinstance(args[0], str):
        return catalog.pool_of(args[0])  # not absolute: the catalog says what to do
    raise UnknownPathError(
        f"no argument of {funcname(func)} is a path or URL, so its pool cannot be looked up."
        " Say it: fed.load(…, pool=…).",
        path="",
        roots=catalog.roots(),
    )


def _paths_in(argument: Any) -> Iterable[str]:
    if is_path_like(argument):
        yield os.fspath(argument)
    elif isinstance(argument, list | tuple):
        for part in argument:
            yield from _paths_in(part)


def _pool_of_paths(paths: list[str]) -> str:
    found: dict[str, str] = {}
    for path in paths:
        found.setdefault(catalog.pool_of(path), path)
    if len(found) == 1:
        return next(iter(found))
    listed = ", ".join(f"{path} in {pool!r}" for pool, path in sorted(found.items()))
    raise AmbiguousPathError(
        f"the paths lie in several pools: {listed}. Open those of each pool by themselves and"
        " combine the lazy results, such as with xarray.concat.",
        path=paths[0],
        pools=tuple(sorted(found)),
    )
