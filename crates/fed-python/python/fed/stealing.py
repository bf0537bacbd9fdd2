"""Work stealing that leaves pinned and placed tasks in their pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distributed.stealing import WorkStealing

from fed.names import pools_in

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

    from fed.topology import Topology


class PoolStealing(WorkStealing):
    """Dask's work stealing, with thieves of the victim's pool first.

    A task that is restricted to a pool, pinned or placed, never leaves it. A free one does when no
    thief is near, and Dask finds it cheaper, the transfer over the link between the pools included.

    Parameters
    ----------
    scheduler
        The scheduler.
    topology
        Its pools.
    """

    def __init__(self, scheduler: Scheduler, topology: Topology) -> None:
        self.topology = topology
        super().__init__(scheduler)

    def _get_thief(
        self,
        scheduler: Any,
        ts: Any,
        potential_thieves: set[Any],
        *,
        occupancies: Any,
    ) -> Any:
        pool = self.topology.pool_of(ts.processing_on)
        thieves = {thief for thief in potential_thieves if self.topology.pool_of(thief) == pool}
        if not thieves:
            if pools_in(ts.resource_restrictions):
                return None
            thieves = potential_thieves
        return super()._get_thief(scheduler, ts, thieves, occupancies=occupancies)


async def confine_stealing(scheduler: Scheduler, topology: Topology) -> None:
    """Replace the scheduler's work stealing by one that knows pools.

    Does nothing if work stealing is switched off.

    Parameters
    ----------
    scheduler
        A running scheduler.
    topology
        Its pools.
    """
    stock = scheduler.extensions.get("stealing")
    if stock is None or isinstance(stock, PoolStealing):
        return
    if "stealing" in scheduler.periodic_callbacks:
        await stock.stop()  # before its start, this would wait for ever
    for name, plugin in list(scheduler.plugins.items()):
        if plugin is stock:
            del scheduler.plugins[name]
    confined = PoolStealing(scheduler, topology)
    scheduler.extensions["stealing"] = confined
    await confined.start()
