"""The table of computations over two pools: each is built with `fed.pool`, then computed outside.

An entry takes the client and the data folder and returns the result; `expected` does the same
work with plain xarray or numpy in one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import fed
import numpy as np
from tests.python import reads
import xarray as xr
from tests.python.federations import POOLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distributed import Client

BLOCKS = 6

NORTH, SOUTH = POOLS


def blocks(data: Path, pool: str) -> list[str]:
    return [str(data / pool / f"block-{index}.npy") for index in range(BLOCKS)]


def array(data: Path, pool: str) -> da.Array:
    """An array whose tasks read one file each."""
    with fed.pool(pool):
        read = dask.delayed(reads.read_block, pure=True)
        return da.concatenate(
            [da.from_delayed(read(path), (50, 50), "f8") for path in blocks(data, pool)]
        )


def mapped(data: Path, pool: str) -> da.Array:
    """The same array as one blockwise layer."""
    paths = blocks(data, pool)

    def read(block_id: tuple[int, ...]) -> Any:
        return reads.read_block(paths[block_id[0]])

    with fed.pool(pool):
        return da.map_blocks(
            lambda block_info=None: read(block_info[None]["chunk-location"]),
            chunks=((50,) * BLOCKS, (50,)),
            dtype="f8",
            meta=np.empty((0, 0)),
        )


def netcdf(data: Path, pool: str) -> xr.Dataset:
    with fed.pool(pool):
        return xr.open_dataset(data / pool / "x.nc", chunks={})


def zarr(data: Path, pool: str) -> xr.Dataset:
    with fed.pool(pool):
        return xr.open_zarr(data / pool / "x.zarr", consolidated=False)


def plain(data: Path, pool: str) -> xr.Dataset:
    return xr.open_dataset(data / pool / "x.nc")


def plain_array(data: Path, pool: str) -> Any:
    return np.concatenate([np.load(path) for path in blocks(data, pool)])


def _both(opener: Callable[[Path, str], Any], data: Path) -> tuple[Any, Any]:
    return opener(data, NORTH), opener(data, SOUTH)


def _sum_of_both(opener: Callable[[Path, str], Any]) -> Callable[..., Any]:
    return lambda _client, data: (_both(opener, data)[0] + _both(opener, data)[1]).compute()


def _delayed(_client: Client, data: Path) -> Any:
    parts = []
    for pool in POOLS:
        with fed.pool(pool):
            parts += [dask.delayed(reads.read_block)(path) for path in blocks(data, pool)]
    return dask.delayed(sum)([dask.delayed(np.sum)(part) for part in parts]).compute()


def _futures(client: Client, data: Path) -> Any:
    futures = []
    for pool in POOLS:
        with fed.pool(pool):
            futures += client.map(reads.read_block, blocks(data, pool))
            futures.append(client.submit(reads.read_block, blocks(data, pool)[0], pure=False))
    return sum(np.sum(part) for part in client.gather(futures))


def _resources(client: Client, data: Path) -> Any:
    futures = []
    for pool in POOLS:
        wanted = {f"pool-{pool}": 1}
        futures += client.map(reads.read_block, blocks(data, pool), resources=wanted, pure=False)
    return sum(np.sum(part) for part in client.gather(futures))


def _bag(_client: Client, data: Path) -> Any:
    total = 0.0
    for pool in POOLS:
        with fed.pool(pool):
            bag = db.from_sequence(blocks(data, pool), npartitions=BLOCKS).map(reads.read_block)
        total += bag.map(np.sum).sum().compute()
    return total


def _frame_of_block(path: str) -> Any:
    import pandas as pd

    return pd.DataFrame(reads.read_block(path)).add_prefix("c")


def _frame(_client: Client, data: Path) -> Any:
    frames = []
    for pool in POOLS:
        with fed.pool(pool):
            frames.append(dd.from_map(_frame_of_block, blocks(data, pool)))
    return dd.concat(frames)["c0"].sum().compute()


def _persisted(_client: Client, data: Path) -> Any:
    north, south = _both(netcdf, data)
    north = north.persist()
    return (north - south).t.sum().compute().item()


def _computed_inside(_client: Client, data: Path) -> Any:
    total = 0.0
    for pool in POOLS:
        lazy = [dask.delayed(reads.read_block)(path) for path in blocks(data, pool)]
        with fed.pool(pool):
            total += sum(np.sum(part) for part in dask.compute(*lazy))
    return total


def _scenario(opener: Callable[[Path, str], xr.Dataset], data: Path) -> Any:
    north, south = _both(opener, data)
    return (
        north.t.mean("realization").isel(height=3) - south.t.isel(realization=0, height=3)
    ).load()


def _grouped(opener: Callable[[Path, str], xr.Dataset], data: Path) -> Any:
    north, south = _both(opener, data)
    both = xr.concat([north.t, south.t], "realization", coords="minimal", compat="override")
    return both.groupby("height").mean().transpose("height", ...).load()


def _sums(data: Path, extra: float = 0.0) -> Any:
    return sum(plain_array(data, pool).sum() for pool in POOLS) + extra


EXPRESSIONS: dict[str, tuple[Callable[..., Any], Callable[[Path], Any]]] = {
    "array sum": (
        lambda _client, data: sum(part.sum().compute() for part in _both(array, data)),
        _sums,
    ),
    "array a+b": (
        _sum_of_both(array),
        lambda data: sum(_both(plain_array, data)),
    ),
    "blockwise a+b": (
        _sum_of_both(mapped),
        lambda data: sum(_both(plain_array, data)),
    ),
    "array a+b, to_delayed": (
        lambda _client, data: sum(
            np.sum(block)
            for part in _both(array, data)
            for block in dask.compute(*(part + 1).to_delayed().ravel())
        ),
        lambda data: _sums(data, 2 * BLOCKS * 50 * 50),
    ),
    "array a+b, rechunked": (
        lambda _client, data: sum(_both(array, data)).rechunk((100, 25)).T.compute(),
        lambda data: sum(_both(plain_array, data)).T,
    ),
    "netcdf mean - obs": (
        lambda _client, data: _scenario(netcdf, data),
        lambda data: _scenario(plain, data),
    ),
    "zarr mean - obs": (
        lambda _client, data: _scenario(zarr, data),
        lambda data: _scenario(plain, data),
    ),
    "netcdf concat, groupby": (
        lambda _client, data: _grouped(netcdf, data),
        lambda data: _grouped(plain, data),
    ),
    "zarr a-b": (
        lambda _client, data: (_both(zarr, data)[0] - _both(zarr, data)[1]).t.load(),
        lambda data: (_both(plain, data)[0] - _both(plain, data)[1]).t,
    ),
    "netcdf persisted": (
        _persisted,
        lambda data: (_both(plain, data)[0] - _both(plain, data)[1]).t.sum().item(),
    ),
    "delayed": (_delayed, _sums),
    "futures": (
        _futures,
        lambda data: _sums(data, sum(np.load(blocks(data, pool)[0]).sum() for pool in POOLS)),
    ),
    "futures, resources=": (_resources, _sums),
    "bag": (_bag, _sums),
    "dataframe": (_frame, lambda data: _sums(data) / 50),
    "computed inside": (_computed_inside, _sums),
}
