"""A worker preload that records every read of a data file, with the pool that it was made in.

It looks at what really happens: netCDF reads at xarray's array wrappers, everything else
(zarr chunks, plain files) at Python's audit hook. It does not know fed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = os.environ.get("FED_TEST_DATA", "")
POOL = os.environ.get("FED_TEST_POOL", "")

READS: list[tuple[str, str]] = []
"""Pool that holds the file, and path of the file below the root."""


def record(path: object) -> None:
    if not isinstance(path, str | bytes | os.PathLike):
        return
    text = os.fsdecode(path)
    if text.startswith(ROOT + "/"):
        relative = text[len(ROOT) + 1 :]
        READS.append((relative.split("/")[0], relative))


def _audit(event: str, args: tuple) -> None:
    # Metadata is read while opening; only reads of bulk data count.
    if event == "open" and args and not str(args[0]).endswith(("zarr.json", ".nc")):
        record(args[0])


def _patch_netcdf() -> None:
    from xarray.backends.netCDF4_ import NetCDF4ArrayWrapper

    plain = NetCDF4ArrayWrapper._getitem

    def _getitem(self, key):
        record(self.datastore._filename)
        return plain(self, key)

    setattr(NetCDF4ArrayWrapper, _getitem.__name__, _getitem)


def dask_setup(worker: object) -> None:
    _patch_netcdf()
    sys.addaudithook(_audit)


def take() -> dict[str, int]:
    """Return the reads since the last call: all of them, and those of another pool's files."""
    taken = list(READS)
    READS.clear()
    return {"reads": len(taken), "foreign": sum(1 for pool, _ in taken if pool != POOL)}


def bytes_read() -> int:
    """Return the bytes that this process has read so far, from files and connections."""
    return int(Path("/proc/self/io").read_text().split()[1])


def read_block(path: str) -> Any:
    """Read one file as an array; what a hand-written opener's tasks do."""
    import numpy as np

    return np.load(Path(path))


def read_numbered_block(folder: str, block_info: Any = None) -> Any:
    """Read the file that belongs to a block of a blockwise array."""
    return read_block(f"{folder}/block-{block_info[None]['chunk-location'][0]}.npy")
