"""Measures the links between pools, and between the scheduler and each pool, while they are used.

The round trip is that of the smallest message over Dask's own connections: the least of several,
since whatever else a worker does only adds to it. The throughput is what transfers have got: the
most of the recent ones, as those that shared the link had less. Nothing is sent to find it out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from itertools import combinations
from time import perf_counter
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from fed import _dask_private as dask_private
from fed.links import OPERATOR

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from distributed.scheduler import Scheduler
    from distributed.worker import Worker

    from fed.links import Links
    from fed.topology import Topology

logger = logging.getLogger("fed.scheduler")

ECHO = "fed_echo"
PROBE = "fed_probe"
"""Handlers of workers."""

ECHOES = 4
"""Messages per round; the first may have to connect, and does not count."""

PERIOD = 15.0
"""Seconds between two rounds."""

ROUNDS = 8
"""Rounds of which the least round trip counts."""

PATIENCE = 10.0
"""Seconds that a worker may take to answer, until which nothing is known of its links."""

LARGE = 1 << 20
"""Bytes from which on a transfer tells of throughput, and not of the round trip."""

RECENT = 16
"""Large transfers from one peer that are remembered."""


class Transfers:
    """What the transfers that a worker has fetched tell of throughput."""

    def __init__(self) -> None:
        self._rates: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))

    def note(self, peer: str, nbytes: int, seconds: float) -> None:
        """Take note of one transfer."""
        if nbytes >= LARGE:
            self._rates[peer].append(nbytes / seconds)

    def rates(self) -> dict[str, float]:
        """Return the most bytes per second of recent transfers, by peer."""
        return {peer: max(rates) for peer, rates in self._rates.items()}


def answer_probes(worker: Worker) -> None:
    """Make a worker answer the questions of a `Prober`.

    Parameters
    ----------
    worker
        A worker that has not started yet.
    """
    transfers = Transfers()
    dask_private.hook_incoming(worker, transfers.note)

    async def probe(peers: Iterable[str] = ()) -> dict[str, Any]:
        rtts = {}
        for peer in peers:
            rtt = await _round_trip(worker.rpc(peer).fed_echo)
            if rtt is not None:
                rtts[peer] = rtt
        return {"rtts": rtts, "rates": transfers.rates()}

    worker.handlers[ECHO] = _echo
    worker.handlers[PROBE] = probe


def _echo() -> bool:
    return True


async def _round_trip(echo: Callable[[], Awaitable[Any]]) -> float | None:
    """Return the least of the seconds that an echo takes, None if there is none."""
    least = None
    try:
        async with asyncio.timeout(PATIENCE):
            for number in range(ECHOES):
                start = perf_counter()
                if await echo() is None:
                    return None  # a worker without fed
                seconds = perf_counter() - start
                if number:
                    least = seconds if least is None else min(least, seconds)
    except (OSError, TimeoutError) as error:
        logger.debug("no echo: %s", error)
        return None
    return least


class Prober(SchedulerPlugin):
    """A scheduler plugin that keeps the table of links true.

    Parameters
    ----------
    scheduler
        The scheduler.
    topology
        Its pools.
    links
        The table.
    """

    name = "fed-prober"

    def __init__(self, scheduler: Scheduler, topology: Topology, links: Links) -> None:
        self.scheduler = scheduler
        self.topology = topology
        self.links = links
        self._rtts: defaultdict[tuple[str, str], deque[float]] = defaultdict(
            lambda: deque(maxlen=ROUNDS)
        )
        self._round = asyncio.Lock()
        self._silent: set[str] = set()
        self._looking = PeriodicCallback(self.probe, PERIOD * 1000)

    def install(self) -> None:
        """Begin to measure."""
        self.scheduler.add_plugin(self)
        self._looking.start()

    async def close(self) -> None:
        """Stop measuring, with the scheduler."""
        self._looking.stop()

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Measure at once when a pool gets its first worker."""
        self._silent.discard(worker)
        pool = self.topology.pool_of(scheduler.workers[worker])
        if pool is not None and len(self.topology.workers(pool)) == 1:
            scheduler.loop.add_callback(self.probe)

    async def probe(self) -> None:
        """Measure each link once."""
        async with self._round:
            await self._measure_round_trips()
            await self._collect_rates()

    async def _measure_round_trips(self) -> None:
        speakers = {}
        for pool in self.topology.names():
            able = [w.address for w in self.topology.workers(pool) if w.address not in self._silent]
            if not able:
                continue
            address = min(able)
            worker = self.scheduler.rpc(address)
            rtt = await _round_trip(worker.fed_echo)
            if rtt is not None:
                self._note(OPERATOR, pool, rtt)
                speakers[pool] = address
        asked = defaultdict(list)
        for first, second in combinations(speakers, 2):
            asked[first].append(second)
        for pool, others in asked.items():
            answer = await self._ask(speakers[pool], [speakers[other] for other in others])
            for other in others:
                rtt = answer["rtts"].get(speakers[other])
                if rtt is not None:
                    self._note(pool, other, rtt)

    def _note(self, source: str, destination: str, rtt: float) -> None:
        history = self._rtts[source, destination]
        history.append(rtt)
        self.links.update([{"source": source, "destination": destination, "rtt": min(history)}])

    async def _collect_rates(self) -> None:
        pools = {
            address: pool
            for address, worker in self.scheduler.workers.items()
            if (pool := self.topology.pool_of(worker)) is not None
        }
        best: dict[tuple[str, str], float] = {}
        answers = await asyncio.gather(*(self._ask(address) for address in pools))
        for here, answer in zip(pools.values(), answers, strict=True):
            for peer, rate in answer["rates"].items():
                there = pools.get(peer)
                if there is not None and there != here:
                    best[there, here] = max(best.get((there, here), 0.0), rate)
        self.links.update(
            {"source": source, "destination": destination, "throughput": rate}
            for (source, destination), rate in best.items()
        )

    async def _ask(self, address: str, peers: Sequence[str] = ()) -> dict[str, Any]:
        answer = None
        if address not in self._silent:
            try:
                async with asyncio.timeout(PATIENCE * (1 + len(peers))):
                    answer = await self.scheduler.rpc(address).fed_probe(peers=list(peers))
            except (OSError, TimeoutError) as error:
                logger.debug("worker %s tells nothing of its links: %s", address, error)
            else:
                if answer is None:
                    self._silent.add(address)  # a worker without fed
        return answer or {"rtts": {}, "rates": {}}
