"""The same calculations the old way: ``remote.py EXAMPLE RESULTS PORT``.

The operator's xarray reads the files over HTTP. So that the comparison is fair, it reads as well
as one can: small files whole and all at once, large ones by requests as large as their chunks,
over connections that are open and at full speed already.
"""

import io
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import conversation
import fsspec
import xarray as xr

PATHS = {
    "scenarios": ("/data/ecmwf/A1B_north_america.nc", "/data/eumetsat/E1_north_america.nc"),
    "predictions": ("/data/ecmwf/predictions.nc", "/data/eumetsat/observations.nc"),
    "warm_up": ("/data/ecmwf/warm_up.nc", "/data/eumetsat/warm_up.nc"),
}
WARM = 4 << 20
"""Bytes of a file that bring a connection to full speed, on a path of 40 ms and 100 Mbit/s."""
SMALL = 16 << 20
"""Files up to this many bytes are read whole, by one request."""
READ_AHEAD = 32 << 10
"""Bytes that are read beyond what is asked for in a large file: the metadata of its chunks."""


class Reader:
    """Reads files of the sites at the operator.

    Parameters
    ----------
    port
        Port of the sites' file servers.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.files = fsspec.filesystem("http", skip_instance_cache=True)
        self.sizes = {
            path: self.files.size(self.url(path)) for paths in PATHS.values() for path in paths
        }
        self.whole = {}

    def url(self, path: str) -> str:
        """Return the address of a path such as ``/data/SITE/FILE``."""
        _, _, site, name = path.split("/")
        return f"http://{site}:{self.port}/{name}"

    def connect(self, name: str) -> None:
        """Read the beginning of the files of a calculation, and forget it."""
        urls = [self.url(path) for path in PATHS[name]]
        ends = [min(WARM, self.sizes[path]) for path in PATHS[name]]
        self.files.cat_ranges(urls, [0] * len(urls), ends)

    def fetch(self, name: str) -> None:
        """Fetch the small files of a calculation, all at once."""
        small = {self.url(path): path for path in PATHS[name] if self.sizes[path] <= SMALL}
        contents = self.files.cat(list(small))
        self.whole = {small[url]: content for url, content in contents.items()}

    def open_dataset(self, path: str, chunks: Any) -> xr.Dataset:
        """Open a file of a site, lazy."""
        if path in self.whole:
            file = io.BytesIO(self.whole[path])
        else:
            file = self.files.open(
                self.url(path),
                size=self.sizes[path],
                cache_type="readahead",
                block_size=READ_AHEAD,
            )
        return xr.open_dataset(file, engine="h5netcdf", chunks=chunks)


def main() -> None:
    """Answer each name of a calculation with its seconds and the bytes of its files.

    Before that, ``connect NAME`` is answered when the connections that it needs are warm.
    """
    example, results, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    calculations = runpy.run_path(example)
    reader = Reader(port)
    reader.fetch("warm_up")
    first, second = (reader.open_dataset(path, {}).air_temperature for path in PATHS["warm_up"])
    (first.mean("realization") - second.mean("realization")).compute()

    def calculate(word: str) -> dict[str, Any]:
        *connect, name = word.split()
        if connect:
            reader.connect(name)
            return {"connected": True}
        start = time.perf_counter()
        reader.fetch(name)
        result = calculations[name](reader.open_dataset).compute()
        seconds = time.perf_counter() - start
        result.reset_coords(drop=True).to_netcdf(results / f"{name}.nc")
        return {"seconds": seconds, "file_bytes": sum(reader.sizes[path] for path in PATHS[name])}

    conversation.serve(calculate)


if __name__ == "__main__":
    main()
