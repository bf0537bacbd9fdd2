"""``python -m fed.dask_worker``: Dask's own worker command, with fed's preload and exit code.

A worker that was retired and one that lost its scheduler both end in good order. The site
replaces the second and not the first, so they have to be told apart.

The preload is set rather than given as ``--preload``: to look at its options, Dask's command would
import it, and all that it imports, in the nanny too.
"""

from __future__ import annotations

import gc
import sys

# Imports make no garbage to speak of, and looking for it takes an eighth of their time. A nanny's
# workers import this module first, too; `fed.worker` ends it for them.
gc.disable()

LOST_SCHEDULER = 75
"""Exit code of a worker that lost its scheduler: ``EX_TEMPFAIL`` of ``sysexits.h``."""

ENDED_BY_A_SIGNAL = 143
"""Exit code of a worker whose nanny was sent a signal: nobody retired it, so it is replaced."""

PRELOAD = "fed.worker"

_LOSSES = frozenset(
    {
        "worker-handle-scheduler-connection-broken",
        "worker-heartbeat-missing",
        "worker-heartbeat-error",
    }
)
"""Reasons for which a worker asks its nanny not to start it again, although nobody retired it."""


def main() -> None:
    """Run ``dask worker`` with this process's arguments.

    Raises
    ------
    SystemExit
        With `LOST_SCHEDULER` or `ENDED_BY_A_SIGNAL` if that is why the worker ended, else with
        Dask's own code.
    """
    # Nannies start their workers by importing this module again: only this process needs these.
    import dask
    from distributed.cli import dask_worker

    from fed import _dask_private as dask_private

    gc.enable()
    own = dask.config.get("distributed.worker.preload")
    dask.config.set(
        {"distributed.worker.preload": [*([own] if isinstance(own, str) else own), PRELOAD]}
    )
    reasons: list[str] = []
    dask_private.hook_nannies(reasons.append)
    dask_worker.main(standalone_mode=False)
    if _LOSSES.intersection(reasons):
        sys.exit(LOST_SCHEDULER)
    if not reasons:
        # A worker that the scheduler retires tells its nanny so.
        sys.exit(ENDED_BY_A_SIGNAL)


if __name__ == "__main__":
    main()
