"""The table of computations over two pools: sources are pinned, everything else is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xarray as xr

from tests.python import reads
from tests.python.federations import POOLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from distributed import Client

BLOCKS = 6
BLOCK = (50, 50)
NORTH, SOUTH = POOLS


@dataclass(frozen=True)
class Run:
    """What a computation of the table needs."""

    client: Client
    data: Path
    pin: Callable[[str], AbstractContextManager[None]]
    """`fed.pool`, or what stock Dask offers in its place."""

    def blocks(self, pool: str) -> list[str]:
        return [str(self.data / pool / f"block-{index}.npy") for index in range(BLOCKS)]

    def array(self, pool: str) -> da.Array:
        """Open an array whose tasks read one file each."""
        with self.pin(pool):
            read = dask.delayed(reads.read_block, pure=True)
            return da.concatenate(
                [da.from_delayed(read(path), BLOCK, "f8") for path in self.blocks(pool)]
            )

    def blockwise(self, pool: str) -> da.Array:
        """Open the same array as one symbolic layer."""
        with self.pin(pool):
            return da.map_blocks(
                reads.read_numbered_block,
                folder=str(self.data / pool),
                chunks=((BLOCK[0],) * BLOCKS, (BLOCK[1],)),
                dtype="f8",
                meta=np.empty((0, 0)),
            )

    def netcdf(self, pool: str) -> xr.Dataset:
        with self.pin(pool):
            return xr.open_dataset(self.data / pool / "x.nc", chunks={})

    def zarr(self, pool: str) -> xr.Dataset:
        with self.pin(pool):
            return xr.open_zarr(self.data / pool / "x.zarr", consolidated=False)


@dataclass(frozen=True)
class Plain:
    """The same sources, read in this process without Dask."""

    data: Path

    def array(self, pool: str) -> Any:
        return np.concatenate(
            [np.load(self.data / pool / f"block-{index}.npy") for index in range(BLOCKS)]
        )

    def dataset(self, pool: str) -> xr.Dataset:
        with xr.open_dataset(self.data / pool / "x.nc") as dataset:
            return dataset.load()

    def sum(self) -> Any:
        return self.array(NORTH).sum() + self.array(SOUTH).sum()


def scenario(north: xr.Dataset, south: xr.Dataset) -> Any:
    """The calculation that the project began with."""
    mean = north.t.mean("realization").isel(height=3)
    return (mean - south.t.isel(realization=0, height=3)).load()


def grouped(north: xr.Dataset, south: xr.Dataset) -> Any:
    both = xr.concat([north.t, south.t], "realization", coords="minimal", compat="override")
    return both.groupby("height").mean().transpose("height", ...).load()


def array_sum(run: Run) -> Any:
    return run.array(NORTH).sum().compute() + run.array(SOUTH).sum().compute()


def array_add(run: Run) -> Any:
    return (run.array(NORTH) + run.array(SOUTH)).compute()


def blockwise_sum(run: Run) -> Any:
    return (run.blockwise(NORTH).sum() + run.blockwise(SOUTH).sum()).compute()


def array_to_delayed(run: Run) -> Any:
    lazy = [
        block
        for pool in POOLS
        for block in (run.array(pool) + 1).to_delayed().ravel()  # optimised by the client
    ]
    return sum(block.sum() for block in dask.compute(*lazy)) - 2 * BLOCKS * BLOCK[0] * BLOCK[1]


def array_rechunked(run: Run) -> Any:
    return (run.array(NORTH) + run.array(SOUTH)).rechunk((100, 25)).T.compute()


def netcdf_scenario(run: Run) -> Any:
    return scenario(run.netcdf(NORTH), run.netcdf(SOUTH))


def zarr_scenario(run: Run) -> Any:
    return scenario(run.zarr(NORTH), run.zarr(SOUTH))


def netcdf_grouped(run: Run) -> Any:
    return grouped(run.netcdf(NORTH), run.netcdf(SOUTH))


def zarr_difference(run: Run) -> Any:
    return (run.zarr(NORTH) - run.zarr(SOUTH)).t.load()


def netcdf_persisted(run: Run) -> Any:
    north = run.netcdf(NORTH).persist()
    return (north - run.netcdf(SOUTH)).t.load()


def delayed(run: Run) -> Any:
    parts = []
    for pool in POOLS:
        with run.pin(pool):
            parts += [dask.delayed(reads.read_block)(path) for path in run.blocks(pool)]
    return dask.delayed(sum)([dask.delayed(np.sum)(part) for part in parts]).compute()


def futures(run: Run) -> Any:
    made = []
    for pool in POOLS:
        with run.pin(pool):
            made += run.client.map(reads.read_block, run.blocks(pool)[1:])
            made.append(run.client.submit(reads.read_block, run.blocks(pool)[0]))
    return sum(part.sum() for part in run.client.gather(made))


def futures_with_resources(run: Run) -> Any:
    made = []
    for pool in POOLS:
        wanted = {f"pool-{pool}": 1}
        made += run.client.map(reads.read_block, run.blocks(pool), resources=wanted, pure=False)
    return sum(part.sum() for part in run.client.gather(made))


def bag(run: Run) -> Any:
    total = 0.0
    for pool in POOLS:
        with run.pin(pool):
            read = db.from_sequence(run.blocks(pool), npartitions=BLOCKS).map(reads.read_block)
        total += read.map(np.sum).sum().compute()
    return total


def frame_of_block(path: str) -> pd.DataFrame:
    return pd.DataFrame(reads.read_block(path)).add_prefix("c")


def dataframe(run: Run) -> Any:
    frames = []
    for pool in POOLS:
        with run.pin(pool):
            frames.append(dd.from_map(frame_of_block, run.blocks(pool)))
    return dd.concat(frames)["c0"].sum().compute() * BLOCK[1]


def computed_inside(run: Run) -> Any:
    total = 0.0
    for pool in POOLS:
        lazy = [dask.delayed(reads.read_block)(path) for path in run.blocks(pool)]
        with run.pin(pool):
            total += sum(part.sum() for part in dask.compute(*lazy))
    return total


@dataclass(frozen=True)
class Row:
    """One computation of the table."""

    compute: Callable[[Run], Any]
    expected: Callable[[Plain], Any]
    stock_fails: bool
    """Whether stock Dask, given the same pins as annotations, reads in the wrong pool."""


def _added(plain: Plain) -> Any:
    return plain.array(NORTH) + plain.array(SOUTH)


def _scenario(plain: Plain) -> Any:
    return scenario(plain.dataset(NORTH), plain.dataset(SOUTH))


def _difference(plain: Plain) -> Any:
    return (plain.dataset(NORTH) - plain.dataset(SOUTH)).t


def _grouped(plain: Plain) -> Any:
    return grouped(plain.dataset(NORTH), plain.dataset(SOUTH))


TABLE: dict[str, Row] = {
    "array sum": Row(array_sum, Plain.sum, stock_fails=True),
    "array a+b": Row(array_add, _added, stock_fails=True),
    "blockwise sum": Row(blockwise_sum, Plain.sum, stock_fails=True),
    "array to_delayed": Row(array_to_delayed, Plain.sum, stock_fails=True),
    "array rechunked": Row(array_rechunked, lambda plain: _added(plain).T, stock_fails=True),
    "netcdf scenario": Row(netcdf_scenario, _scenario, stock_fails=True),
    "netcdf groupby": Row(netcdf_grouped, _grouped, stock_fails=True),
    "netcdf persisted": Row(netcdf_persisted, _difference, stock_fails=True),
    "zarr scenario": Row(zarr_scenario, _scenario, stock_fails=True),
    "zarr a-b": Row(zarr_difference, _difference, stock_fails=True),
    "delayed": Row(delayed, Plain.sum, stock_fails=False),
    "futures": Row(futures, Plain.sum, stock_fails=False),
    "futures resources=": Row(futures_with_resources, Plain.sum, stock_fails=False),
    "bag": Row(bag, Plain.sum, stock_fails=True),
    "dataframe": Row(dataframe, Plain.sum, stock_fails=True),
    "computed inside": Row(computed_inside, Plain.sum, stock_fails=False),
}
