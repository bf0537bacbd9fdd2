"""Makes the scheduler reckon with the links between pools, and prefer replicas that are near."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fed import _dask_private as dask_private

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

    from fed.links import Links
    from fed.topology import Topology


def reckon_with_links(scheduler: Scheduler, topology: Topology, links: Links) -> None:
    """Make a scheduler take the link between two pools for what it costs.

    It is used wherever Dask assumes one bandwidth for all: when a worker is chosen for a task,
    and when a task is stolen.

    Parameters
    ----------
    scheduler
        A running scheduler.
    topology
        Its pools.
    links
        What it costs to move bytes between them.
    """

    def seconds(task: TaskState, worker: WorkerState) -> float | None:
        pool = topology.pool_of(worker)
        if pool is None:
            return None
        near = 0
        far: dict[str, int] = {}
        for dependency in task.dependencies:
            holders = dependency.who_has or ()
            if worker in holders:
                continue
            sources = {topology.pool_of(holder) for holder in holders}
            if pool in sources or None in sources or not sources:
                near += dependency.get_nbytes()
            else:
                source = min(
                    (name for name in sources if name is not None),
                    key=lambda name: links.seconds(name, pool, 0),
                )
                far[source] = far.get(source, 0) + dependency.get_nbytes()
        cost = near / scheduler.bandwidth
        if far:
            cost += sum(links.seconds(source, pool, nbytes) for source, nbytes in far.items())
        return float(cost)

    def holders_near(dependency: TaskState, worker: WorkerState) -> list[str] | None:
        pool = topology.pool_of(worker)
        if pool is None:
            return None
        near = [h.address for h in dependency.who_has or () if topology.pool_of(h) == pool]
        return near or None

    dask_private.hook_costs(scheduler, seconds)
    dask_private.hook_holders(scheduler, holders_near)
