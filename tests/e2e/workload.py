"""One workload for stock Dask and for fed, and a hook on the workers that counts what they read.

Everything here runs in the client's session or, sent from there, on workers.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

HOME, AWAY = "ecmwf", "eumetsat"


def watch_reads(pool: str | None = None) -> None:
    """Note each read of bulk data in this worker, with the folder below ``/data`` it comes from.

    netCDF reads are seen at xarray's array wrapper, zarr chunks and plain files at Python's
    audit hook. It knows nothing of fed.

    Parameters
    ----------
    pool
        The pool of this worker; by default that of its environment.
    """
    from xarray.backends.netCDF4_ import NetCDF4ArrayWrapper

    if hasattr(sys, "fed_test_reads"):
        return
    reads: list[str] = []
    sys.fed_test_reads = reads  # type: ignore[attr-defined]
    sys.fed_test_pool = pool or os.environ["FED_POOL"]  # type: ignore[attr-defined]
    plain = NetCDF4ArrayWrapper._getitem

    def note(path: object) -> None:
        if isinstance(path, str) and path.startswith("/data/"):
            reads.append(path.split("/")[2])

    def _getitem(self: Any, key: Any) -> Any:
        note(self.datastore._filename)
        return plain(self, key)

    def audit(event: str, args: tuple) -> None:
        if event == "open" and not str(args[0]).endswith((".nc", ".json")):
            note(os.fsdecode(args[0]) if isinstance(args[0], bytes | os.PathLike) else args[0])

    setattr(NetCDF4ArrayWrapper, _getitem.__name__, _getitem)
    sys.addaudithook(audit)


def taken_reads() -> tuple[int, int]:
    """Return how often this worker has read since the last call, and how often another's data."""
    reads: list[str] = sys.fed_test_reads  # type: ignore[attr-defined]
    pool: str = sys.fed_test_pool  # type: ignore[attr-defined]
    total, foreign = len(reads), len(reads) - reads.count(pool)
    reads.clear()
    return total, foreign


def read_everything(open_here: Callable[[Callable, str, str], Any]) -> list[float]:
    """Read both sites' netCDF and zarr through several shapes of graph.

    Parameters
    ----------
    open_here
        Opens a path at a pool, and returns it lazily: ``open_here(opener, path, pool)``.
    """
    import xarray as xr

    ours, theirs = (
        open_here(xr.open_dataset, f"/data/{pool}/t.nc", pool)["t"] for pool in (HOME, AWAY)
    )
    open_zarr = partial(xr.open_zarr, consolidated=False)
    near, far = (open_here(open_zarr, f"/data/{pool}/t.zarr", pool)["t"] for pool in (HOME, AWAY))
    results = [
        (ours.mean("realization") - theirs.isel(realization=0)).std(),
        (near - far).max(),
        (ours + far).mean(),
    ]
    return [float(result.compute()) for result in results]


def provoke_steals(client: Any) -> list[int]:
    """Submit tasks that want to be where their data is, while the other pool has nothing to do."""
    from distributed import wait

    sources = client.map(_block, range(60), resources={f"pool-{HOME}": 0}, pure=False)
    wait(sources)
    return client.gather(client.map(_linger, sources, pure=False))


def _block(value: int) -> Any:
    # Large enough that it should not cross; little to move, as stock Dask reckons.
    return np.full(1 << 17, value, dtype="f8")


def _linger(block: Any) -> int:
    # Long at home, and no time elsewhere: whoever may steal, does.
    time.sleep(0.1 if sys.fed_test_pool == HOME else 0.001)  # type: ignore[attr-defined]
    return int(block[0])
