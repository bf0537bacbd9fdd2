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
from distributed import wait

from tests.python import reads
from tests.python.federations import POOLS, THREE_POOLS

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from distributed import Client

BLOCKS = 6
BLOCK = (50, 50)
NORTH, SOUTH, WEST = THREE_POOLS


@dataclass(frozen=True)
class Run:
    """What a computation of the table needs."""

    client: Client
    data: Path
    pin: Callable[[str], AbstractContextManager[None]]
    """`fed.pool`, or what stock Dask offers in its place."""

    def blocks(self, pool: str) -> list[str]:
        return [str(self.data / pool / f"block-{index}.npy") for index in range(BLOCKS)]

    def files(self, pool: str, kind: str) -> list[str]:
        return [str(self.data / pool / f"block-{index}.{kind}") for index in range(BLOCKS)]

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

    def sum_of_three(self) -> Any:
        return self.sum() + self.array(WEST).sum()

    def column(self) -> Any:
        return self.sum() / BLOCK[1]


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


def array_overlapping(run: Run) -> Any:
    both = da.concatenate([run.array(NORTH), run.array(SOUTH)])
    return both.map_overlap(lambda block: block, depth=1, boundary="none").sum().compute()


def array_optimised_first(run: Run) -> Any:
    (lazy,) = dask.optimize(run.array(NORTH).sum() + run.array(SOUTH).sum())
    return lazy.compute()


def array_persisted(run: Run) -> Any:
    kept = [run.array(pool).persist() for pool in POOLS]
    return (kept[0].sum() + kept[1].sum()).compute()


def array_stale(run: Run) -> Any:
    """The same arrays once without a pin, kept, and then pinned."""
    unpinned = Run(run.client, run.data, lambda _pool: dask.annotate())
    kept = [unpinned.array(pool).persist() for pool in POOLS]
    wait(kept)
    run.client.run(reads.take)
    result = array_sum(run)
    del kept
    return result


def blockwise_stacked(run: Run) -> Any:
    return da.stack([run.blockwise(NORTH), run.blockwise(SOUTH)]).sum(axis=0).compute()


def netcdf_many_files(run: Run) -> Any:
    total: Any = 0.0
    for pool in POOLS:
        with run.pin(pool):
            paths = [run.data / pool / f"part-{part}.nc" for part in range(2)]
            opened = xr.open_mfdataset(paths, chunks={}, combine="nested", concat_dim="realization")
        total = total + opened.t.mean("realization")
    return total.load()


def netcdf_many_files_at_once(run: Run) -> Any:
    """Open as `xarray` does it with tasks of its own."""
    total: Any = 0.0
    for pool in POOLS:
        with run.pin(pool):
            paths = [run.data / pool / f"part-{part}.nc" for part in range(2)]
            opened = xr.open_mfdataset(
                paths, chunks={}, combine="nested", concat_dim="realization", parallel=True
            )
        total = total + opened.t.mean("realization")
    return total.load()


def zarr_opened_by_futures(run: Run) -> Any:
    """Open on a worker, and compute with what it gives back."""
    opened = []
    for pool in POOLS:
        path = run.data / pool / "x.zarr"
        with run.pin(pool):
            opened.append(run.client.submit(xr.open_zarr, path, consolidated=False, pure=False))
    north, south = run.client.gather(opened)
    return (north - south).t.load()


def _sum_at_the_site(path: Path) -> float:
    return float(xr.open_zarr(path, consolidated=False).t.sum())


def zarr_computed_by_tasks(run: Run) -> Any:
    """Compute within a task, on whichever workers that uses."""
    found = []
    for pool in POOLS:
        path = run.data / pool / "x.zarr"
        with run.pin(pool):
            found.append(run.client.submit(_sum_at_the_site, path, pure=False))
    return sum(run.client.gather(found))


def zarr_ufunc(run: Run) -> Any:
    north, south = run.zarr(NORTH).t, run.zarr(SOUTH).t
    return xr.apply_ufunc(np.subtract, north, south, dask="parallelized").load()


def delayed_chain(run: Run) -> Any:
    parts = []
    for pool in POOLS:
        with run.pin(pool):
            parts.append([dask.delayed(reads.read_block)(path) for path in run.blocks(pool)])
    pairs = [dask.delayed(np.add)(*pair) for pair in zip(*parts, strict=True)]
    return dask.delayed(np.sum)(pairs).compute()


def futures_chained(run: Run) -> Any:
    made = []
    for pool in POOLS:
        with run.pin(pool):
            made.append(run.client.map(reads.read_block, run.blocks(pool)))
    return sum(run.client.gather(run.client.map(np.sum, made[0] + made[1])))


def bag_chained(run: Run) -> Any:
    bags = []
    for pool in POOLS:
        with run.pin(pool):
            bags.append(db.from_sequence(run.blocks(pool), npartitions=3).map(reads.read_block))
    return db.concat([part.map(np.sum) for part in bags]).sum().compute()


def bag_zipped(run: Run) -> Any:
    bags = []
    for pool in POOLS:
        with run.pin(pool):
            bags.append(db.from_sequence(run.blocks(pool), npartitions=3).map(reads.read_block))
    return db.map(np.add, *bags).map(np.sum).sum().compute()


def dataframe_csv(run: Run) -> Any:
    frames = []
    for pool in POOLS:
        with run.pin(pool):
            frames.append(dd.read_csv(run.files(pool, "csv")))
    return dd.concat(frames)["c0"].sum().compute()


def dataframe_parquet(run: Run) -> Any:
    frames = []
    for pool in POOLS:
        with run.pin(pool):
            frames.append(dd.read_parquet(run.files(pool, "parquet"), filesystem="fsspec"))
    return dd.concat(frames)["c0"].sum().compute()


def dataframe_from_delayed(run: Run) -> Any:
    frames = []
    for pool in POOLS:
        with run.pin(pool):
            parts = [dask.delayed(frame_of_block)(path) for path in run.blocks(pool)]
            frames.append(dd.from_delayed(parts))
    return (frames[0]["c0"].sum() + frames[1]["c0"].sum()).compute()


def dataframe_persisted(run: Run) -> Any:
    frames = []
    for pool in POOLS:
        with run.pin(pool):
            frames.append(dd.from_map(frame_of_block, run.blocks(pool)).persist())
    return dd.concat(frames)["c0"].sum().compute()


def dataframe_merged(run: Run) -> Any:
    frames = []
    for pool in POOLS:
        with run.pin(pool):
            frames.append(dd.read_csv(run.files(pool, "csv")))
    merged = frames[0].merge(frames[1], on="k")
    return (merged["c0_x"] + merged["c0_y"]).sum().compute()


def dataframe_grouped(run: Run) -> Any:
    frames = []
    for pool in POOLS:
        with run.pin(pool):
            frames.append(dd.from_map(frame_of_block, run.blocks(pool)))
    return dd.concat(frames).groupby("c1")["c0"].sum().compute().sum()


def three_arrays(run: Run) -> Any:
    return da.stack([run.array(pool).sum() for pool in THREE_POOLS]).sum().compute()


def three_blockwise_added(run: Run) -> Any:
    north, south, west = (run.blockwise(pool) for pool in THREE_POOLS)
    return (north + south + west).sum().compute()


def three_zarrs(run: Run) -> Any:
    parts = [run.zarr(pool).t for pool in THREE_POOLS]
    both = xr.concat(parts, "realization", coords="minimal", compat="override", join="override")
    return both.mean("realization").load()


def three_delayed(run: Run) -> Any:
    parts = []
    for pool in THREE_POOLS:
        with run.pin(pool):
            parts += [dask.delayed(reads.read_block)(path) for path in run.blocks(pool)]
    return dask.delayed(sum)([dask.delayed(np.sum)(part) for part in parts]).compute()


def three_bags(run: Run) -> Any:
    bags = []
    for pool in THREE_POOLS:
        with run.pin(pool):
            bags.append(db.from_sequence(run.blocks(pool), npartitions=3).map(reads.read_block))
    return db.concat([part.map(np.sum) for part in bags]).sum().compute()


def three_dataframes(run: Run) -> Any:
    frames = []
    for pool in THREE_POOLS:
        with run.pin(pool):
            frames.append(dd.from_map(frame_of_block, run.blocks(pool)))
    return dd.concat(frames)["c0"].sum().compute() * BLOCK[1]


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


def _means(plain: Plain) -> Any:
    means = [plain.dataset(pool).t.mean("realization") for pool in THREE_POOLS]
    return sum(means[1:], means[0]) / len(means)


def _two_means(plain: Plain) -> Any:
    north, south = (plain.dataset(pool).t.mean("realization") for pool in POOLS)
    return north + south


def _sums(plain: Plain) -> Any:
    return sum(float(plain.dataset(pool).t.sum()) for pool in POOLS)


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
    "array overlapping": Row(array_overlapping, Plain.sum, stock_fails=True),
    "array optimised first": Row(array_optimised_first, Plain.sum, stock_fails=True),
    "array persisted": Row(array_persisted, Plain.sum, stock_fails=True),
    "array stale": Row(array_stale, Plain.sum, stock_fails=False),
    "blockwise stacked": Row(blockwise_stacked, _added, stock_fails=True),
    "netcdf many files": Row(netcdf_many_files, _two_means, stock_fails=True),
    "netcdf at once": Row(netcdf_many_files_at_once, _two_means, stock_fails=True),
    "zarr by futures": Row(zarr_opened_by_futures, _difference, stock_fails=True),
    "zarr by tasks": Row(zarr_computed_by_tasks, _sums, stock_fails=True),
    "zarr ufunc": Row(zarr_ufunc, _difference, stock_fails=True),
    "delayed chain": Row(delayed_chain, Plain.sum, stock_fails=False),
    "futures chained": Row(futures_chained, Plain.sum, stock_fails=False),
    "bag chained": Row(bag_chained, Plain.sum, stock_fails=True),
    "bag zipped": Row(bag_zipped, Plain.sum, stock_fails=True),
    "dataframe csv": Row(dataframe_csv, Plain.column, stock_fails=True),
    "dataframe parquet": Row(dataframe_parquet, Plain.column, stock_fails=False),
    "dataframe from_delayed": Row(dataframe_from_delayed, Plain.column, stock_fails=True),
    "dataframe persisted": Row(dataframe_persisted, Plain.column, stock_fails=False),
    "dataframe merged": Row(dataframe_merged, Plain.column, stock_fails=True),
    "dataframe grouped": Row(dataframe_grouped, Plain.column, stock_fails=True),
}

THREE: dict[str, Row] = {
    "arrays": Row(three_arrays, Plain.sum_of_three, stock_fails=True),
    "blockwise added": Row(three_blockwise_added, Plain.sum_of_three, stock_fails=True),
    "zarrs": Row(three_zarrs, _means, stock_fails=True),
    "delayed": Row(three_delayed, Plain.sum_of_three, stock_fails=False),
    "bags": Row(three_bags, Plain.sum_of_three, stock_fails=True),
    "dataframes": Row(three_dataframes, Plain.sum_of_three, stock_fails=True),
}
"""The same over three pools."""
