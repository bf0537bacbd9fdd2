"""Makes the data of the demonstration: ``generate.py FOLDER LATITUDES LONGITUDES``.

Each site gets a folder: the two scenarios of iris-sample-data, unchanged, and made-up predictions
and observations in the shape of a weather centre's.
"""

import shutil
import sys
from pathlib import Path

import iris_sample_data
import netCDF4
import numpy as np

REALIZATIONS = 18
HEIGHTS = 33
CHUNK = (REALIZATIONS, HEIGHTS, 60, 160)
"""A chunk holds a region's whole ensemble (23 MB), as in the calculation of 2022."""
SCENARIOS = {"ecmwf": "A1B_north_america.nc", "eumetsat": "E1_north_america.nc"}
SEED = 20220719


def temperature(latitude: np.ndarray, longitude: np.ndarray, height: float) -> np.ndarray:
    """Return a made-up air temperature in K, of shape (latitude, longitude)."""
    waves = (
        np.cos(np.radians(3 * longitude))[np.newaxis] * np.sin(np.radians(2 * latitude))[:, None]
    )
    return 288.0 - 0.0065 * height - 0.005 * latitude[:, None] ** 2 + 4 * waves


def start(path: Path, latitude: np.ndarray, longitude: np.ndarray) -> netCDF4.Dataset:
    """Create a NetCDF file with the axes latitude and longitude."""
    data = netCDF4.Dataset(path, "w", format="NETCDF4")
    for name, values, unit in (
        ("latitude", latitude, "degrees_north"),
        ("longitude", longitude, "degrees_east"),
    ):
        data.createDimension(name, len(values))
        axis = data.createVariable(name, "f4", (name,))
        axis.units = unit
        axis[:] = values
    return data


def air_temperature(
    data: netCDF4.Dataset, dimensions: tuple[str, ...], chunks: tuple[int, ...] | None
) -> netCDF4.Variable:
    """Create the variable, in K, uncompressed."""
    variable = data.createVariable(
        "air_temperature", "f4", dimensions, chunksizes=chunks, zlib=False
    )
    variable.units = "K"
    variable.long_name = "air temperature"
    return variable


def write_predictions(
    path: Path, latitude: np.ndarray, longitude: np.ndarray, random: np.random.Generator
) -> None:
    """Write an ensemble: each member differs from the truth by noise and an offset."""
    height = np.linspace(5, 6000, HEIGHTS, dtype="f4")
    with start(path, latitude, longitude) as data:
        data.createDimension("height", HEIGHTS)
        axis = data.createVariable("height", "f4", ("height",))
        axis.units = "m"
        axis[:] = height
        data.createDimension("realization", REALIZATIONS)
        data.createVariable("realization", "i4", ("realization",))[:] = np.arange(REALIZATIONS)
        dimensions = ("realization", "height", "latitude", "longitude")
        variable = air_temperature(data, dimensions, CHUNK)
        layers = [temperature(latitude, longitude, layer).astype("f4") for layer in height]
        for member in range(REALIZATIONS):
            offset = random.normal(0, 0.5)
            noise = random.standard_normal((len(latitude), len(longitude)), dtype="f4")
            variable[member] = np.stack([layer + offset + noise for layer in layers])


def write_observations(
    path: Path, latitude: np.ndarray, longitude: np.ndarray, random: np.random.Generator
) -> None:
    """Write the truth near the height that the example selects, with a bias and noise."""
    with start(path, latitude, longitude) as data:
        truth = temperature(latitude, longitude, np.linspace(5, 6000, HEIGHTS)[10])
        bias = 1.5 * np.sin(np.radians(longitude - 40))[np.newaxis]
        noise = random.normal(0, 0.2, truth.shape)
        air_temperature(data, ("latitude", "longitude"), None)[:] = truth + bias + noise


def write_warm_up(path: Path) -> None:
    """Write a file for calculations whose time does not count: a chunk for each member."""
    axis = np.arange(8, dtype="f4")
    with start(path, axis, axis) as data:
        data.createDimension("realization", REALIZATIONS)
        dimensions = ("realization", "latitude", "longitude")
        air_temperature(data, dimensions, (1, 8, 8))[:] = np.full((REALIZATIONS, 8, 8), 273.15)


def main() -> None:
    """Fill the folder."""
    folder = Path(sys.argv[1])
    latitudes, longitudes = int(sys.argv[2]), int(sys.argv[3])
    samples = Path(iris_sample_data.__file__).parent / "sample_data"
    for site, scenario in SCENARIOS.items():
        (folder / site).mkdir(parents=True)
        shutil.copyfile(samples / scenario, folder / site / scenario)
        write_warm_up(folder / site / "warm_up.nc")
    random = np.random.default_rng(SEED)
    latitude = np.linspace(-89.5, 89.5, latitudes, dtype="f4")
    longitude = np.linspace(0, 360, longitudes, endpoint=False, dtype="f4")
    write_predictions(folder / "ecmwf/predictions.nc", latitude, longitude, random)
    write_observations(folder / "eumetsat/observations.nc", latitude, longitude, random)


if __name__ == "__main__":
    main()
