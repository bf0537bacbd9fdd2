"""Counts the bytes that workers send one another, and sums them up by pool and computation.

Counted is payload where it leaves a worker: results that others gather or copy, and the shards of
peer-to-peer shuffles. What goes to clients and to the scheduler is not.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fed import _dask_private as dask_private

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler
    from distributed.worker import Worker

    from fed.placement import Placer
    from fed.planning import Plan

logger = logging.getLogger("fed.scheduler")

OPERATION = "fed_traffic"
"""Handler of workers, and of the scheduler."""

LEDGER = 100
"""Computations that the scheduler remembers."""


def count_outgoing(worker: Worker) -> None:
    """Make a worker count what it sends to each peer, by the collection that it belongs to.

    Parameters
    ----------
    worker
        A worker that has not started yet.
    """
    sent: Counter[tuple[str, str]] = Counter()

    def count(peer: str, name: str, nbytes: int) -> None:
        sent[peer, name] += nbytes

    dask_private.hook_outgoing(worker, count)

    def report() -> list[tuple[str, str, int]]:
        return [(peer, name, nbytes) for (peer, name), nbytes in sent.items()]

    worker.handlers[OPERATION] = report


@dataclass
class Computation:
    """A graph that was placed, and the bytes that were expected to cross."""

    names: frozenset[str]
    """The collections that it computes, by the names in their keys."""
    label: str
    tasks: int
    estimate: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan) -> Computation:
        """Describe a plan."""
        names = frozenset(name for key in plan.keys if (name := dask_private.name_of_key(key)))
        last = plan.keys[-1] if plan.keys else ""
        crossing = {
            (source, destination): plan.crossing[i][j]
            for i, source in enumerate(plan.pools)
            for j, destination in enumerate(plan.pools)
            if plan.crossing[i][j]
        }
        return cls(names, str(dask_private.name_of_key(last) or last), len(plan.keys), crossing)


class Ledger:
    """What crossed between the pools of a scheduler, beside what was expected to.

    Parameters
    ----------
    scheduler
        The scheduler.
    placer
        Knows the pools.
    """

    def __init__(self, scheduler: Scheduler, placer: Placer) -> None:
        self.scheduler = scheduler
        self.placer = placer
        self.computations: deque[Computation] = deque(maxlen=LEDGER)
        self._reports: dict[str, list[tuple[str, str, int]]] = {}
        self._pools: dict[str, str] = {}

    def note(self, plan: Plan) -> None:
        """Remember a computation."""
        self.computations.append(Computation.of(plan))

    async def traffic(self, comm: object = None) -> dict[str, Any]:
        """Ask the workers what they have sent, and sum it up.

        Parameters
        ----------
        comm
            Ignored; given when this is called as a handler of the scheduler.

        Returns
        -------
        dict
            ``crossed``: bytes per pair of pools since the workers started, a list of
            ``[source, destination, bytes]``. ``computations``: the last ones, oldest first, each
            with ``label``, ``tasks``, and lists ``estimated`` and ``crossed`` as above. What
            belongs to several computations counts for the latest of them. Bytes of workers
            that have left count up to the last call.
        """
        del comm
        for address, worker in self.scheduler.workers.items():
            if (pool := self.placer.topology.pool_of(worker)) is not None:
                self._pools[address] = pool
        replies = await self.scheduler.broadcast(msg={"op": OPERATION}, on_error="return")
        for address, reply in replies.items():
            if isinstance(reply, Exception):
                logger.warning("worker %s does not tell what it has sent: %s", address, reply)
            else:
                self._reports[address] = [tuple(entry) for entry in reply]
        return self._sum()

    def _sum(self) -> dict[str, Any]:
        crossed: Counter[tuple[str, str]] = Counter()
        owners = {name: entry for entry in self.computations for name in entry.names}
        shares: dict[int, Counter[tuple[str, str]]] = {
            id(entry): Counter() for entry in self.computations
        }
        for address, report in self._reports.items():
            source = self._pools.get(address)
            for peer, name, nbytes in report:
                destination = self._pools.get(peer)
                if source is None or destination in (None, source):
                    continue
                crossed[source, destination] += nbytes
                if owner := owners.get(name):
                    shares[id(owner)][source, destination] += nbytes
        return {
            "crossed": _rows(crossed),
            "computations": [
                {
                    "label": entry.label,
                    "tasks": entry.tasks,
                    "estimated": _rows(entry.estimate),
                    "crossed": _rows(shares[id(entry)]),
                }
                for entry in self.computations
            ],
        }


def _rows(table: Any) -> list[list[Any]]:
    return [[*pair, nbytes] for pair, nbytes in sorted(table.items())]
