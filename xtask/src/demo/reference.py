"""The calculations in plain xarray, all data at hand: ``reference.py EXAMPLE DATA RESULTS``."""

import runpy
import sys
from pathlib import Path

import xarray as xr


def main() -> None:
    """Write each result to ``RESULTS/NAME.nc``."""
    example, data, results = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    calculations = runpy.run_path(example)

    def open_dataset(path: str, chunks: object) -> xr.Dataset:
        del chunks  # plain xarray reads into memory, without Dask
        return xr.open_dataset(data / Path(path).relative_to("/data"))

    for name in ("scenarios", "predictions"):
        result = calculations[name](open_dataset).compute()
        result.reset_coords(drop=True).to_netcdf(results / f"{name}.nc")


if __name__ == "__main__":
    main()
