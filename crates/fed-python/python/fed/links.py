"""What it costs to move bytes from one pool to another: round trip and throughput per pair."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LINKS_VARIABLE = "FED_LINKS"
"""Environment variable: JSON list of objects as `Link` has fields, for before any measurement."""

OPERATOR = ""
"""Stands for the operator's host, where the scheduler runs, in a link's ``source``."""

DEFAULT_RTT = 0.03
"""Seconds between two pools whose link was not measured: two countries of one continent."""

DEFAULT_THROUGHPUT = 30e6
"""Bytes per second while no link was measured; below the 100 MB/s that Dask takes for workers of
one pool."""

UNLIKE = 4.0
"""Ratio of throughputs below which two links cost the same: what a transfer gets varies by more
than half with its size and with what else runs, which is no reason to move more bytes."""


@dataclass(frozen=True)
class Link:
    """One direction between two pools, or between the operator and a pool."""

    source: str
    destination: str
    rtt: float | None = None
    """Round trip, seconds; None if unknown."""
    throughput: float | None = None
    """Bytes per second; None if unknown."""

    def __post_init__(self) -> None:
        """Refuse what no link can be."""
        is_rtt = self.rtt is None or (math.isfinite(self.rtt) and self.rtt >= 0)
        if not is_rtt or (self.throughput is not None and not self.throughput > 0):
            raise ValueError(
                f"the link from {self.source!r} to {self.destination!r} has a round trip of"
                f" {self.rtt} s and a throughput of {self.throughput} B/s: the first must be 0 or"
                " more, the second more than 0"
            )


class Links:
    """The table of links, with defaults where nothing is known."""

    def __init__(self, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        self._table: dict[tuple[str, str], Link] = {}
        self._usual = DEFAULT_THROUGHPUT
        self.update(entries)

    @classmethod
    def from_json(cls, text: str) -> Links:
        """Read the table from the value of ``FED_LINKS``.

        Raises
        ------
        ValueError
            If it is no list of links.
        """
        try:
            return cls(json.loads(text))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{LINKS_VARIABLE} holds no list of links: {error}") from error

    def update(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Add links; what an entry does not tell of a link that is known stays.

        Raises
        ------
        TypeError, ValueError
            If an entry is no link. None has been added then.
        """
        for link in [Link(**entry) for entry in entries]:
            ends = link.source, link.destination
            known = self._table.get(ends, link)
            self._table[ends] = Link(
                *ends,
                rtt=known.rtt if link.rtt is None else link.rtt,
                throughput=known.throughput if link.throughput is None else link.throughput,
            )
        rates = [link.throughput for link in self._table.values() if link.throughput is not None]
        self._usual = median(rates) if rates else DEFAULT_THROUGHPUT

    def handle(
        self, comm: object = None, links: Iterable[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """Add links at a client's request, and return the table.

        Parameters
        ----------
        comm
            Ignored; given when this is called as a handler of the scheduler.
        links
            See `update`.
        """
        del comm
        self.update(links)
        return self.entries()

    def entries(self) -> list[dict[str, Any]]:
        """Return the table as `update` takes it."""
        return [asdict(link) for _, link in sorted(self._table.items())]

    def rtt(self, source: str, destination: str) -> float:
        """Return the seconds of a round trip between two pools."""
        found = self._known(source, destination, "rtt")
        return DEFAULT_RTT if found is None else found

    def throughput(self, source: str, destination: str) -> float:
        """Return the bytes per second from one pool to another.

        Where it is unknown, that of the way back is taken, or else the median of all links.
        """
        found = self._known(source, destination, "throughput")
        return self._usual if found is None else found

    def rtt_of(self, pool: str) -> float:
        """Return the seconds of a round trip between the scheduler and a pool; 0 if unknown."""
        return self._known(OPERATOR, pool, "rtt") or 0.0

    def _known(self, source: str, destination: str, what: str) -> float | None:
        for ends in ((source, destination), (destination, source)):
            link = self._table.get(ends)
            value: float | None = getattr(link, what, None)
            if value is not None:
                return value
        return None

    def seconds(self, source: str, destination: str, nbytes: int) -> float:
        """Return the time that bytes take from one pool to another."""
        return self.rtt(source, destination) + nbytes / self.throughput(source, destination)

    def costs(self, pools: Sequence[str]) -> list[list[float]]:
        """Return the relative cost of a byte, ``costs[source][destination]``.

        The cheapest pair costs 1, one that is at least `UNLIKE` times slower `UNLIKE`, and so on by
        powers.
        """
        rates = [[self.throughput(a, b) for b in pools] for a in pools]
        pairs = range(len(pools))
        off = [rates[a][b] for a in pairs for b in pairs if a != b]
        fastest = max(off, default=1.0)
        return [
            [
                0.0 if a == b else UNLIKE ** math.floor(math.log(fastest / rates[a][b], UNLIKE))
                for b in pairs
            ]
            for a in pairs
        ]
