"""What it costs to move bytes from one pool to another: round trip and throughput per pair."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LINKS_VARIABLE = "FED_LINKS"
"""Environment variable: JSON list of objects as `Link` has fields, measured on the mesh."""

OPERATOR = ""
"""Stands for the operator's host, where the scheduler runs, in a link's ``source``."""

DEFAULT_RTT = 0.03
"""Seconds between two pools whose link was not measured: two countries of one continent."""

DEFAULT_THROUGHPUT = 30e6
"""Bytes per second, likewise; below the 100 MB/s that Dask takes for workers of one pool."""


@dataclass(frozen=True)
class Link:
    """One direction between two pools, or between the operator and a pool."""

    source: str
    destination: str
    rtt: float = DEFAULT_RTT
    """Round trip, seconds."""
    throughput: float = DEFAULT_THROUGHPUT
    """Bytes per second."""

    def __post_init__(self) -> None:
        """Refuse what no link can be."""
        if not (math.isfinite(self.rtt) and self.rtt >= 0 and self.throughput > 0):
            raise ValueError(
                f"the link from {self.source!r} to {self.destination!r} has a round trip of"
                f" {self.rtt} s and a throughput of {self.throughput} B/s: the first must be 0 or"
                " more, the second more than 0"
            )


_UNMEASURED = Link("?", "?")


class Links:
    """The table of links, with defaults where nothing was measured."""

    def __init__(self, entries: Iterable[Mapping[str, Any]] = ()) -> None:
        self._table: dict[tuple[str, str], Link] = {}
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
        """Add links, or replace those between the same ends.

        Raises
        ------
        TypeError, ValueError
            If an entry is no link. None has been added then.
        """
        links = [Link(**entry) for entry in entries]
        self._table.update({(link.source, link.destination): link for link in links})

    def handle(
        self, comm: object = None, links: Iterable[Mapping[str, Any]] = ()
    ) -> list[dict[str, Any]]:
        """Add links at the request of whoever measures them, and return the table.

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

    def between(self, source: str, destination: str) -> Link:
        """Return the link from one pool to another; where only the way back is known, that."""
        found = self._table.get((source, destination)) or self._table.get((destination, source))
        return found or _UNMEASURED

    def rtt_of(self, pool: str) -> float:
        """Return the seconds of a round trip between the scheduler and a pool; 0 if unknown."""
        found = self._table.get((OPERATOR, pool)) or self._table.get((pool, OPERATOR))
        return found.rtt if found else 0.0

    def seconds(self, source: str, destination: str, nbytes: int) -> float:
        """Return the time that bytes take from one pool to another."""
        link = self.between(source, destination)
        return link.rtt + nbytes / link.throughput

    def costs(self, pools: Sequence[str]) -> list[list[float]]:
        """Return the relative cost of a byte, ``costs[source][destination]``.

        The cheapest pair costs 1, and others a power of 2: measurements vary by some tens of per
        cent from one to the next, which is no reason to move more bytes.
        """
        rates = [[self.between(a, b).throughput for b in pools] for a in pools]
        pairs = range(len(pools))
        off = [rates[a][b] for a in pairs for b in pairs if a != b]
        fastest = max(off, default=1.0)
        return [
            [0.0 if a == b else 2.0 ** round(math.log2(fastest / rates[a][b])) for b in pairs]
            for a in pairs
        ]
