"""Openers for the tests of `fed.load`; a module of its own, as workers import it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr

from tests.python.workloads import pool_here, pool_of_block, pool_of_nothing


def array() -> da.Array:
    return da.map_blocks(
        pool_of_block, chunks=((1,) * 4,), dtype=object, meta=np.empty((0,), object)
    )


def delayed() -> Any:
    return dask.delayed(pool_here)()


def bag() -> db.Bag:
    return db.from_sequence(range(6), npartitions=3).map(pool_of_nothing)


def _frame(_value: int) -> pd.DataFrame:
    return pd.DataFrame({"pool": [pool_here()]}, dtype=object)


def frame() -> Any:
    meta = pd.DataFrame({"pool": pd.Series(dtype=object)})
    return dd.from_map(_frame, [1, 2, 3], meta=meta)


def data_array() -> xr.DataArray:
    return xr.DataArray(array(), dims="x", name="pool")


def tree() -> xr.DataTree:
    dataset = xr.Dataset({"pool": data_array()})
    return xr.DataTree.from_dict({"/": dataset, "/inner": dataset})


def several() -> dict[str, Any]:
    return {"array": array(), "bag": bag()}


def eager_numpy() -> Any:
    return np.ones(10)


def eager_dataset() -> xr.Dataset:
    return xr.Dataset({"t": ("x", np.ones(10))})


def eager_handle() -> xr.Dataset:
    """A dataset that is lazy in xarray's own way only: it reads where it is used."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.nc"
        eager_dataset().to_netcdf(path)
        return xr.open_dataset(path)


def chunked_numpy() -> da.Array:
    """Data that was in memory before it was cut into chunks."""
    return da.from_array(np.ones(1_000_000), chunks=250_000)


def chunked_dataset() -> xr.Dataset:
    """A dataset that was loaded first."""
    return xr.Dataset({"t": ("x", np.ones(1_000_000))}).chunk({"x": 250_000})


def frame_of_pandas() -> Any:
    """A table that was in memory before it was partitioned."""
    return dd.from_pandas(pd.DataFrame({"x": np.ones(1_000_000)}), npartitions=4)


def mixed_dataset() -> xr.Dataset:
    return xr.Dataset({"t": data_array(), "big": ("y", np.ones(1_000_000))})


def mixed_list() -> list[Any]:
    return [array(), np.ones(10)]


def eager_text() -> str:
    return "text"


def nothing() -> None:
    """A function that opens nothing."""


def pools_seen(obj: Any) -> set[str]:
    """Compute what one of the lazy openers returned, and return the pools its tasks saw."""
    (result,) = dask.compute(obj)
    if isinstance(result, pd.DataFrame):
        return set(result["pool"])
    if isinstance(result, xr.DataTree):
        return {str(pool) for node in result.subtree for pool in np.asarray(node["pool"])}
    if isinstance(result, str):
        return {result}
    return {str(pool) for pool in np.ravel(np.asarray(result, dtype=object))}
