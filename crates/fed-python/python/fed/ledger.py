"""Counts the bytes that workers send one another, and sums them up by pool and computation.

Counted is payload where it leaves a worker: results that others gather or copy, and the shards of
peer-to-peer shuffles. What goes to clients and to the scheduler is not.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from fed import _dask_private as dask_private

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distributed.scheduler import Scheduler
    from distributed.worker import Worker

    from fed.placement import Placer
    from fed.planning import Plan

logger = logging.getLogger("fed.scheduler")

OPERATION = "fed_traffic"
"""Handler of workers, and of the scheduler."""

MARK = "fed_traffic_mark"
"""Handler of workers' streams, and what a worker that has it tells when it registers."""

LEDGER = 100
"""Computations that the scheduler remembers."""


def count_outgoing(worker: Worker) -> None:
    """Make a worker count what it sends to each peer, by collection and by the latest mark.

    Parameters
    ----------
    worker
        A worker that has not started yet.
    """
    sent: Counter[tuple[str, str, int]] = Counter()
    latest = 0

    def count(peer: str, name: str, nbytes: int) -> None:
        sent[peer, name, latest] += nbytes

    dask_private.hook_outgoing(worker, count)

    def mark(number: int) -> None:
        nonlocal latest
        latest = number

    def report() -> list[tuple[str, str, int, int]]:
        return [(*entry, nbytes) for entry, nbytes in sent.items()]

    worker.handlers[OPERATION] = report
    worker.stream_handlers[MARK] = mark
    worker.startup_information[MARK] = lambda _worker: True


@dataclass
class Computation:
    """A graph that was placed, and the bytes that were expected to cross."""

    number: int
    """Counts the computations of a scheduler, from 1."""
    names: frozenset[str]
    """The collections that it computes, by the names in their keys."""
    label: str
    tasks: int
    estimate: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, number: int) -> Computation:
        """Describe a plan."""
        names = frozenset(name for key in plan.keys if (name := dask_private.name_of_key(key)))
        last = plan.keys[-1] if plan.keys else ""
        crossing = {
            (source, destination): plan.crossing[i][j]
            for i, source in enumerate(plan.pools)
            for j, destination in enumerate(plan.pools)
            if plan.crossing[i][j]
        }
        label = str(dask_private.name_of_key(last) or last)
        return cls(number, names, label, len(plan.keys), crossing)


class Ledger(SchedulerPlugin):
    """What crossed between the pools of a scheduler, beside what was expected to.

    A computation that is repeated has the same names again. So when a name gets another owner,
    the workers are sent a mark, ahead of the computation's tasks, and count anew from there.

    Parameters
    ----------
    scheduler
        The scheduler.
    placer
        Knows the pools.
    """

    name = "fed-ledger"

    def __init__(self, scheduler: Scheduler, placer: Placer) -> None:
        self.scheduler = scheduler
        self.placer = placer
        self.computations: deque[Computation] = deque(maxlen=LEDGER)
        self._marks = [0]
        """Numbers of the computations that began with a mark, from the latest that is not after
        the oldest computation remembered."""
        self._reports: dict[str, list[tuple[str, str, int, int]]] = {}
        self._pools: dict[str, str] = {}

    def note(self, plan: Plan) -> None:
        """Remember a computation, whose tasks have not been sent to workers yet."""
        number = self.computations[-1].number + 1 if self.computations else 1
        entry = Computation.of(plan, number)
        owned = any(not entry.names.isdisjoint(other.names) for other in self.computations)
        # Names of computations that are forgotten are not known to be owned.
        if owned or number - self._marks[-1] >= LEDGER:
            first = bisect_right(self._marks, self.computations[0].number) - 1
            self._marks = [*self._marks[first:], number]
            for address in self.scheduler.workers:
                self._send_mark(address)
        self.computations.append(entry)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Tell a worker that joins what it begins with."""
        del scheduler
        self._send_mark(worker)

    def _send_mark(self, address: str) -> None:
        if self.scheduler.workers[address].extra.get(MARK):
            self.scheduler.worker_send(address, {"op": MARK, "number": self._marks[-1]})

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
            belongs to several computations counts for the latest of them that had been
            submitted when it was sent. Bytes of workers that have left count up to the last call.
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
        owners: dict[str, list[Computation]] = {}
        for entry in self.computations:
            for name in entry.names:
                owners.setdefault(name, []).append(entry)
        shares: dict[int, Counter[tuple[str, str]]] = {
            id(entry): Counter() for entry in self.computations
        }
        for address, report in self._reports.items():
            source = self._pools.get(address)
            for peer, name, mark, nbytes in report:
                destination = self._pools.get(peer)
                if source is None or destination in (None, source):
                    continue
                crossed[source, destination] += nbytes
                if owner := self._owner(owners.get(name, ()), mark):
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

    def _owner(self, computations: Sequence[Computation], mark: int) -> Computation | None:
        """Return the last of some computations that was noted before the mark after a mark."""
        after = bisect_right(self._marks, mark)
        if after == len(self._marks):
            return computations[-1] if computations else None
        beyond = self._marks[after]
        return next((entry for entry in reversed(computations) if entry.number < beyond), None)


def _rows(table: Any) -> list[list[Any]]:
    return [[*pair, nbytes] for pair, nbytes in sorted(table.items())]
