"""Makes the scheduler reckon with the links between pools, and prefer replicas that are near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fed import _dask_private as dask_private

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

    from fed.links import Links
    from fed.topology import Topology


def reckon_with_links(scheduler: Scheduler, topology: Topology, links: Links) -> None:
    """Make a scheduler take the link between two pools for what it costs.

    It is used wherever Dask assumes one bandwidth for all: when a worker is chosen for a task,
    when a task is stolen, and when one of several replicas is fetched.

    Parameters
    ----------
    scheduler
        A running scheduler.
    topology
        Its pools.
    links
        What it costs to move bytes between them.
    """
    transfers = Transfers(scheduler, topology, links)
    dask_private.hook_costs(scheduler, transfers.seconds)
    dask_private.hook_holders(scheduler, transfers.nearest_holders)


@dataclass(frozen=True)
class Transfers:
    """Says what transfers between a scheduler's workers cost."""

    scheduler: Scheduler
    topology: Topology
    links: Links

    def seconds(self, task: TaskState, worker: WorkerState) -> float | None:
        """Return how long a task's inputs take to a worker; None for one outside every pool."""
        pool = self.topology.pool_of(worker)
        if pool is None:
            return None
        near = 0
        far: dict[str, int] = {}
        for dependency in task.dependencies:
            holders = dependency.who_has or ()
            if worker in holders:
                continue
            sources = {self.topology.pool_of(holder) for holder in holders}
            if pool in sources or None in sources or not sources:
                near += dependency.get_nbytes()
            else:
                source = min(
                    (name for name in sources if name is not None),
                    key=lambda name: self.links.seconds(name, pool, 0),
                )
                far[source] = far.get(source, 0) + dependency.get_nbytes()
        cost = near / self.scheduler.bandwidth
        if far:
            cost += sum(self.links.seconds(source, pool, nbytes) for source, nbytes in far.items())
        return float(cost)

    def nearest_holders(self, dependency: TaskState, worker: WorkerState) -> list[str] | None:
        """Return those who hold an input in the worker's pool, else in that of the best link.

        None where every holder will do.
        """
        pool = self.topology.pool_of(worker)
        if pool is None:
            return None
        found: dict[str | None, list[str]] = {}
        for holder in dependency.who_has or ():
            found.setdefault(self.topology.pool_of(holder), []).append(holder.address)
        if pool in found or None in found:
            return found.get(pool)
        nbytes = dependency.get_nbytes()
        return found[min(found, key=lambda name: self.links.seconds(str(name), pool, nbytes))]
