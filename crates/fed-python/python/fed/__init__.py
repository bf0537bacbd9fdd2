"""One Dask cluster over several data centres, every chunk kept where it lies.

The names below are imported when they are first used, so that a scheduler or a worker
that only loads ``fed.scheduler`` or ``fed.worker`` pays for nothing else.

Examples
--------
>>> import fed  # doctest: +SKIP
>>> client = fed.connect()  # doctest: +SKIP
>>> predictions = fed.open_dataset("/data/ecmwf/predictions.nc")  # doctest: +SKIP
>>> predictions.mean("realization").compute()  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fed.catalogs import Catalog, catalog
    from fed.client import FedClient, connect, stats, traffic
    from fed.context import current_pool, pool, propagate_pools
    from fed.errors import (
        AmbiguousPathError,
        EmptyPoolError,
        FedError,
        MissingModuleError,
        NotLazyError,
        NotRunningError,
        OtherVersionError,
        PoolConflictError,
        StalePinError,
        UnknownPathError,
        UnknownPoolError,
        WrongPoolError,
    )
    from fed.explanation import Explanation, explain
    from fed.graphs import pin_collection
    from fed.loading import load, open_dataset, open_mfdataset, open_zarr

__version__ = "0.1.0"

_HOMES = {
    "Catalog": "fed.catalogs",
    "catalog": "fed.catalogs",
    "FedClient": "fed.client",
    "connect": "fed.client",
    "Explanation": "fed.explanation",
    "explain": "fed.explanation",
    "stats": "fed.client",
    "traffic": "fed.client",
    "current_pool": "fed.context",
    "pool": "fed.context",
    "propagate_pools": "fed.context",
    "AmbiguousPathError": "fed.errors",
    "EmptyPoolError": "fed.errors",
    "FedError": "fed.errors",
    "MissingModuleError": "fed.errors",
    "NotLazyError": "fed.errors",
    "NotRunningError": "fed.errors",
    "OtherVersionError": "fed.errors",
    "PoolConflictError": "fed.errors",
    "StalePinError": "fed.errors",
    "UnknownPathError": "fed.errors",
    "UnknownPoolError": "fed.errors",
    "WrongPoolError": "fed.errors",
    "pin_collection": "fed.graphs",
    "load": "fed.loading",
    "open_dataset": "fed.loading",
    "open_mfdataset": "fed.loading",
    "open_zarr": "fed.loading",
}

__all__ = [
    "AmbiguousPathError",
    "Catalog",
    "EmptyPoolError",
    "Explanation",
    "FedClient",
    "FedError",
    "MissingModuleError",
    "NotLazyError",
    "NotRunningError",
    "OtherVersionError",
    "PoolConflictError",
    "StalePinError",
    "UnknownPathError",
    "UnknownPoolError",
    "WrongPoolError",
    "catalog",
    "connect",
    "current_pool",
    "explain",
    "load",
    "open_dataset",
    "open_mfdataset",
    "open_zarr",
    "pin_collection",
    "pool",
    "propagate_pools",
    "stats",
    "traffic",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'fed' has no attribute {name!r}") from None
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not, and those that every module has."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
