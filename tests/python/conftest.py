"""Fixtures: data of two pools that every process can see, and clusters with and without fed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tests.python import federations, inprocess, reads_of_workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client

SHAPE = (8, 6, 40, 40)
CHUNKS = {"realization": 1, "height": 6, "latitude": 20, "longitude": 40}
BLOCKS = 6


def _dataset(seed: int) -> xr.Dataset:
    generator = np.random.default_rng(seed)
    names = ("realization", "height", "latitude", "longitude")
    values = generator.normal(size=SHAPE).astype("float32")
    coords = {name: np.arange(size) for name, size in zip(names, SHAPE, strict=True)}
    return xr.Dataset({"t": (names, values)}, coords=coords)


@pytest.fixture(scope="session", autouse=True)
def _scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what schedulers and workers in this process write where pytest tidies up."""
    scratch = {"temporary-directory": str(tmp_path_factory.mktemp("scratch"))}
    # Each cluster of `pooled` begins with Dask's own configuration, and these values.
    inprocess.CONFIG.update(scratch)
    with dask.config.set(scratch):
        yield


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tree of data per pool: netCDF, zarr, and plain blocks."""
    root = tmp_path_factory.mktemp("data")
    for seed, pool in enumerate(federations.THREE_POOLS):
        folder = root / pool
        folder.mkdir()
        dataset = _dataset(seed)
        sizes = tuple(CHUNKS.values())
        dataset.to_netcdf(folder / "x.nc", encoding={"t": {"chunksizes": sizes}})
        dataset.isel(realization=slice(0, 4)).to_netcdf(folder / "part-0.nc")
        dataset.isel(realization=slice(4, 8)).to_netcdf(folder / "part-1.nc")
        dataset.chunk(CHUNKS).to_zarr(folder / "x.zarr", consolidated=False)
        for block in range(BLOCKS):
            values = np.full((50, 50), seed * 100.0 + block)
            np.save(folder / f"block-{block}.npy", values)
            frame = pd.DataFrame(values).add_prefix("c")
            frame.insert(0, "k", np.arange(50) + 50 * block)
            frame.to_csv(folder / f"block-{block}.csv", index=False)
            frame.to_parquet(folder / f"block-{block}.parquet", index=False)
    return root


@pytest.fixture(scope="session")
def fed_cluster(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[federations.Cluster]:
    """Two pools of two workers under a scheduler with fed's extension."""
    with federations.running(tmp_path_factory.mktemp("fed"), data, with_fed=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def stock_cluster(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[federations.Cluster]:
    """The same pools and workers under stock Dask."""
    with federations.running(tmp_path_factory.mktemp("stock"), data, with_fed=False) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def three_clusters(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[federations.Cluster, federations.Cluster]]:
    """Three pools of two workers each, with fed's extension and with stock Dask."""
    folders = [tmp_path_factory.mktemp(name) for name in ("fed-three", "stock-three")]
    pools = federations.THREE_POOLS
    with (
        federations.running(folders[0], data, with_fed=True, pools=pools) as fed,
        federations.running(folders[1], data, with_fed=False, pools=pools) as stock,
    ):
        yield fed, stock


@pytest.fixture
def client(fed_cluster: federations.Cluster) -> Iterator[Client]:
    """A client of the cluster with fed; the workers' records of reads start empty."""
    with fed_cluster.client() as client:
        reads_of_workers.take(client)
        yield client


@pytest.fixture
def stock_client(stock_cluster: federations.Cluster) -> Iterator[Client]:
    """A client of the stock cluster; the workers' records of reads start empty."""
    with stock_cluster.client() as client:
        reads_of_workers.take(client)
        yield client
