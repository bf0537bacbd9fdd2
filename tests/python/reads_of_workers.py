"""Collects what the preload `reads` has recorded on every worker of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client


def _take_here() -> dict[str, int]:
    from tests.python import reads

    return reads.take()


def take(client: Client) -> dict[str, int]:
    """Return the reads of all workers since the last call: ``reads`` and ``foreign``."""
    total = {"reads": 0, "foreign": 0}
    for counts in client.run(_take_here).values():
        for name, count in counts.items():
            total[name] += count
    return total
