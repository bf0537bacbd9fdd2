"""The scheduler's part of fed: ``dask scheduler --preload fed.scheduler``."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fed.errors import FedError
from fed.versions import check_dask

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger("fed.scheduler")


async def dask_setup(scheduler: Scheduler) -> None:
    """Extend a scheduler; called by Dask when it starts.

    Raises
    ------
    SystemExit
        If the extension cannot be loaded, or this Dask is not supported or lacks what it needs.
        Dask only logs any other exception, and would go on without pins.
    """
    try:
        check_dask()
        # Its compiled part may be missing, or a name of Dask that it needs.
        from fed.extension import extend

        pools = await extend(scheduler)
    except FedError as error:
        raise SystemExit(f"fed.scheduler: {error}") from error
    except Exception as error:
        logger.exception("fed's extension of the scheduler did not start")
        raise SystemExit(f"fed.scheduler: {error}") from error
    logger.info("fed's extension runs; pools: %s", ", ".join(pools) or "any")
