"""The worker's part of fed: ``dask worker --preload fed.worker``.

Dask runs preloads before a worker registers with the scheduler, so a worker that is registered
has imported everything here and knows its pool.
"""

from __future__ import annotations

import gc
import logging
import os
from importlib import import_module
from threading import Thread
from typing import TYPE_CHECKING

from fed.ledger import count_outgoing
from fed.names import resource_of
from fed.pins import POOL_VARIABLE
from fed.probing import answer_probes

if TYPE_CHECKING:
    from distributed.worker import Worker

logger = logging.getLogger("fed.worker")

PRELOADED = ("dask.array", "xarray", "netCDF4", "fed.loading")
"""Modules whose import the first task would otherwise pay for (0.3 s to 0.8 s each)."""

PRELOADED_LATER = ("zarr",)
"""Modules that fewer tasks need: they are imported once the worker stands."""

SETTLED = 1.0
"""Seconds from the preload until those are imported: the worker has registered by then."""


def _import_all(names: tuple[str, ...]) -> None:
    for name in names:
        try:
            import_module(name)
        except ImportError:
            logger.info("%s is not installed here", name)
        except Exception:  # a broken optional library must not stop the worker
            logger.warning("importing %s failed", name, exc_info=True)


_import_all(PRELOADED)
gc.enable()  # see `fed.dask_worker`


def dask_setup(worker: Worker) -> None:
    """Make a worker offer the resource of its pool, count what it sends, and tell of its links.

    Called by Dask before it registers.
    """
    later = Thread(target=_import_all, args=(PRELOADED_LATER,), name="fed-preload", daemon=True)
    worker.loop.call_later(SETTLED, later.start)
    count_outgoing(worker)
    answer_probes(worker)
    pool = os.environ.get(POOL_VARIABLE)
    if not pool:
        return
    state = worker.state
    resource = resource_of(pool)
    if resource not in state.total_resources:
        state.total_resources[resource] = 1
        state.available_resources[resource] = 1
