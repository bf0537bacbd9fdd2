"""Data of two sites: netCDF and zarr, small, in several chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from pathlib import Path

DIMENSIONS = {"realization": 6, "height": 4, "latitude": 24, "longitude": 32}
CHUNKS = {"realization": 1, "height": 4, "latitude": 12, "longitude": 32}


def write(root: Path) -> None:
    """Write a folder for each site, and one that both hold."""
    _write_site(root / "ecmwf", seed=1)
    _write_site(root / "eumetsat", seed=2)
    temperatures(3).to_netcdf(_made(root / "shared") / "both.nc")


def _write_site(folder: Path, seed: int) -> None:
    dataset = temperatures(seed)
    encoding = {"t": {"chunksizes": tuple(CHUNKS.values())}}
    dataset.to_netcdf(_made(folder) / "t.nc", encoding=encoding)
    for part, members in enumerate((slice(0, 3), slice(3, 6))):
        dataset.isel(realization=members).to_netcdf(folder / f"part-{part}.nc")
    dataset.chunk(CHUNKS).to_zarr(folder / "t.zarr", consolidated=False)
    for block in range(6):
        np.save(folder / f"block-{block}.npy", np.full((20, 20), seed * 100.0 + block))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def temperatures(seed: int) -> xr.Dataset:
    """Make a dataset that is small, in several chunks."""
    values = np.random.default_rng(seed).normal(280, 10, size=tuple(DIMENSIONS.values()))
    coords = {name: np.arange(size) for name, size in DIMENSIONS.items()}
    return xr.Dataset({"t": (tuple(DIMENSIONS), values.astype("float32"))}, coords=coords)
