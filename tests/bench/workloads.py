"""The workloads of the placement benchmark: expressions over data of two or three pools.

Each is written once, over an opener, so that it can be built lazily (sources pinned, or annotated
as one did in 2022) and eagerly with plain xarray and pandas. Sizes are such that 20 MB and
more have to cross between pools.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

POOLS = ("north", "south", "west")


def block_of_numbers(
    seed: int, dtype: str, block_info: Any = None, offset: tuple[int, ...] = ()
) -> Any:
    """Make one block of an array; the same values whatever pool it is made in."""
    del offset
    place = block_info[None]
    shape = [stop - start for start, stop in place["array-location"]]
    start = [first for first, _ in place["array-location"]]
    generator = np.random.default_rng([seed, *start])
    return generator.random(shape, dtype="float32").astype(dtype)


def rows_of_numbers(part: int, seed: int, rows: int, name: str) -> pd.DataFrame:
    """Make one partition of a table whose keys ``k`` are the same in every pool."""
    generator = np.random.default_rng([seed, part])
    keys = np.arange(part * rows, (part + 1) * rows)
    generator.shuffle(keys)
    return pd.DataFrame({"k": keys, name: generator.random(rows)})


@dataclass(frozen=True)
class Source:
    """Opens data of a pool."""

    pin: Callable[[str], AbstractContextManager[Any]]
    """Pins what is built inside, as `fed.pool` does."""

    def array(
        self, pool: str, sizes: Mapping[str, int], chunks: Mapping[str, int], dtype: str = "float32"
    ) -> xr.DataArray:
        """Open an array."""
        shape = tuple(sizes.values())
        blocks = da.core.normalize_chunks([chunks.get(d, n) for d, n in sizes.items()], shape)
        with self.pin(pool):
            data = da.map_blocks(
                block_of_numbers,
                POOLS.index(pool),
                dtype,
                chunks=blocks,
                dtype=dtype,
                meta=np.empty((0,) * len(shape), dtype),
                name=f"open-{pool}-{'-'.join(map(str, shape))}",
            )
        return self._named(data, sizes)

    def frame(self, pool: str, rows: int, parts: int) -> Any:
        """Open a table of ``k`` and a column of the pool's name."""
        import dask.dataframe as dd

        with self.pin(pool):
            return dd.from_map(
                rows_of_numbers,
                list(range(parts)),
                seed=POOLS.index(pool),
                rows=rows // parts,
                name=pool,
            )

    @staticmethod
    def _named(data: Any, sizes: Mapping[str, int]) -> xr.DataArray:
        coords: dict[str, Any] = {}
        if "time" in sizes:
            coords["time"] = pd.date_range("2020-01-01", periods=sizes["time"], freq="7D")
        return xr.DataArray(data, dims=tuple(sizes), coords=coords)


class Eager(Source):
    """Opens the same data in this process, without Dask."""

    def array(
        self, pool: str, sizes: Mapping[str, int], chunks: Mapping[str, int], dtype: str = "float32"
    ) -> xr.DataArray:
        lazy = super().array(pool, sizes, chunks, dtype)
        return lazy.copy(data=lazy.data.compute(scheduler="threads"))

    def frame(self, pool: str, rows: int, parts: int) -> Any:
        made = [rows_of_numbers(n, POOLS.index(pool), rows // parts, pool) for n in range(parts)]
        return pd.concat(made)


FIELD = {"height": 20, "latitude": 256, "longitude": 1536}
ENSEMBLE = {"realization": 8, **FIELD}
ENSEMBLE_CHUNKS = {"realization": 2, "height": 5, "latitude": 128}
FIELD_CHUNKS = {"height": 5, "latitude": 128}
SERIES = {"time": 60, "latitude": 440, "longitude": 1536}
SERIES_CHUNKS = {"time": 10, "latitude": 110}
NORTH, SOUTH, WEST = POOLS


def _ensemble(source: Source, pool: str) -> xr.DataArray:
    return source.array(pool, ENSEMBLE, ENSEMBLE_CHUNKS)


def _series(source: Source, pool: str) -> xr.DataArray:
    return source.array(pool, SERIES, SERIES_CHUNKS)


def mean_minus_observations(source: Source) -> Any:
    return _ensemble(source, NORTH).mean("realization") - source.array(SOUTH, FIELD, FIELD_CHUNKS)


def ensemble_rmse(source: Source) -> Any:
    error = _ensemble(source, NORTH) - source.array(SOUTH, FIELD, FIELD_CHUNKS)
    return np.sqrt((error**2).mean("realization"))


def zonal_mean_difference(source: Source) -> Any:
    sizes = {"time": 5200, "latitude": 1536, "longitude": 8}
    chunks = {"time": 650, "latitude": 768}
    north, south = (source.array(pool, sizes, chunks) for pool in (NORTH, SOUTH))
    return north.mean("longitude") - south.mean("longitude")


def groupby_month(source: Source) -> Any:
    north, south = (
        _series(source, pool).groupby("time.month").mean("time") for pool in (NORTH, SOUTH)
    )
    return north - south


def anomaly_by_month(source: Source) -> Any:
    climate = _series(source, SOUTH).groupby("time.month").mean("time")
    return (_series(source, NORTH).groupby("time.month") - climate).std("time")


def concat_mean(source: Source) -> Any:
    both = [_ensemble(source, pool) for pool in (NORTH, SOUTH)]
    return xr.concat(both, "realization").mean("realization")


def concat_rechunk_std(source: Source) -> Any:
    sizes = {"realization": 4, **FIELD}
    both = [source.array(pool, sizes, ENSEMBLE_CHUNKS) for pool in (NORTH, SOUTH)]
    joined = xr.concat(both, "realization")
    if joined.chunks is not None:
        joined = joined.chunk(realization=-1)
    return joined.std("realization")


def tensordot(source: Source) -> Any:
    north = source.array(NORTH, {"i": 6000, "k": 1024}, {"i": 1000, "k": 512}, "float64")
    south = source.array(SOUTH, {"k": 1024, "j": 4200}, {"k": 512, "j": 2100}, "float64")
    return xr.dot(north, south)


def svd_projection(source: Source) -> Any:
    north = source.array(NORTH, {"i": 6000, "k": 1600}, {"i": 1500}, "float64")
    south = source.array(SOUTH, {"j": 6000, "k": 1600}, {"j": 1500}, "float64")
    if north.chunks is None:
        vectors = np.linalg.svd(north.data, full_matrices=False)[2]
    else:
        vectors = da.linalg.svd(north.data)[2]
    # Vectors have no sign: their squared share of the other data does.
    return (xr.DataArray(vectors, dims=("mode", "k")) ** 2).dot(south**2)


def three_sites_mean(source: Source) -> Any:
    parts = [_ensemble(source, pool) for pool in POOLS]
    return xr.concat(parts, "realization").mean("realization")


def three_sites_maximum(source: Source) -> Any:
    parts = [_ensemble(source, pool) for pool in POOLS]
    return xr.concat(parts, "realization").max(["realization"])


def dataframe_join(source: Source) -> Any:
    north = source.frame(NORTH, 6_000_000, 8)
    south = source.frame(SOUTH, 2_400_000, 8)
    joined = north.merge(south, on="k")
    return (joined[NORTH] * joined[SOUTH]).sum()


def rechunk_peer_to_peer(source: Source) -> Any:
    sizes = {"i": 2400, "j": 3200}
    north = source.array(NORTH, sizes, {"i": 150}, "float64")
    south = source.array(SOUTH, {"i": 1200, "j": 3200}, {"i": 150}, "float64")
    joined = xr.concat([north, south], "i")
    if joined.chunks is not None:
        joined = joined.chunk(i=-1, j=400)
    return joined.median("i")


def _norm(left: Any, right: Any) -> Any:
    return np.sqrt(left**2 + right**2)


def apply_ufunc(source: Source) -> Any:
    chunks = {"height": 5, "latitude": 128}
    north, south = (source.array(pool, FIELD, chunks) for pool in (NORTH, SOUTH))
    return xr.apply_ufunc(_norm, north, south, dask="parallelized", output_dtypes=["f4"]).mean(
        "height"
    )


def rolling_mean(source: Source) -> Any:
    south = source.array(SOUTH, {"latitude": 2640, "longitude": 2048}, {"latitude": 660})
    north = source.array(
        NORTH,
        {"time": 20, "latitude": 2640, "longitude": 2048},
        {"time": 5, "latitude": 660},
    )
    return (north.rolling(time=4).mean() - south).max("time")


def resample(source: Source) -> Any:
    north, south = (_series(source, pool).resample(time="MS").mean() for pool in (NORTH, SOUTH))
    return north - south


def _second_difference(block: Any) -> Any:
    """Return the second difference along the middle axis; wrong at its two ends."""
    found = np.zeros_like(block)
    found[:, 1:-1] = block[:, :-2] - 2 * block[:, 1:-1] + block[:, 2:]
    return found


def stencil(source: Source) -> Any:
    sizes = {"time": 320, "latitude": 16, "longitude": 12288}
    chunks = {"time": 80, "latitude": 4}
    joined = xr.concat([source.array(pool, sizes, chunks) for pool in (NORTH, SOUTH)], "latitude")
    if joined.chunks is None:
        padded = np.pad(joined.data, ((0, 0), (1, 1), (0, 0)), mode="edge")
        data = _second_difference(padded)[:, 1:-1]
    else:
        data = da.map_overlap(_second_difference, joined.data, depth={1: 1}, boundary="nearest")
    return (joined.copy(data=data) ** 2).mean("longitude")


@dataclass(frozen=True)
class Workload:
    """One row of the benchmark."""

    name: str
    build: Callable[[Source], Any]
    pools: tuple[str, ...] = (NORTH, SOUTH)
    peer_to_peer: bool = False


WORKLOADS = (
    Workload("mean - observations", mean_minus_observations),
    Workload("ensemble rmse", ensemble_rmse),
    Workload("zonal mean difference", zonal_mean_difference),
    Workload("groupby month", groupby_month),
    Workload("anomaly by month", anomaly_by_month),
    Workload("concat, mean", concat_mean),
    Workload("concat, rechunk, std", concat_rechunk_std),
    Workload("tensordot", tensordot),
    Workload("svd projection", svd_projection),
    Workload("three sites, mean", three_sites_mean, POOLS),
    Workload("three sites, maximum", three_sites_maximum, POOLS),
    Workload("dataframe join", dataframe_join, peer_to_peer=True),
    Workload("rechunk peer to peer", rechunk_peer_to_peer, peer_to_peer=True),
    Workload("apply_ufunc", apply_ufunc),
    Workload("rolling mean", rolling_mean),
    Workload("resample", resample),
    Workload("stencil", stencil),
)
