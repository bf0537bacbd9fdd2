"""Work stealing that never crosses from one pool to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.stealing import WorkStealing

from fed.names import pools_in

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, WorkerState


class PoolStealing(WorkStealing):
    """Dask's work stealing, with thieves of the victim's pool only."""

    def _get_thief(
        self,
        scheduler: Any,
        ts: Any,
        potential_thieves: set[Any],
        *,
        occupancies: Any,
    ) -> Any:
        pools = _pools_of(ts.processing_on)
        near = {thief for thief in potential_thieves if _pools_of(thief) == pools}
        if not near:
            return None
        return super()._get_thief(scheduler, ts, near, occupancies=occupancies)


def _pools_of(worker: WorkerState) -> frozenset[str]:
    return pools_in(worker.resources)


async def confine_stealing(scheduler: Scheduler) -> None:
    """Replace the scheduler's work stealing by one that stays within pools.

    Does nothing if work stealing is switched off.

    Parameters
    ----------
    scheduler
        A running scheduler.
    """
    stock = scheduler.extensions.get("stealing")
    if stock is None or isinstance(stock, PoolStealing):
        return
    if "stealing" in scheduler.periodic_callbacks:
        await stock.stop()  # before its start, this would wait for ever
    for name, plugin in list(scheduler.plugins.items()):
        if plugin is stock:
            del scheduler.plugins[name]
    confined = PoolStealing(scheduler)
    scheduler.extensions["stealing"] = confined
    await confined.start()
