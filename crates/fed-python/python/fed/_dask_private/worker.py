"""Hooks into workers and their nannies."""

from __future__ import annotations

from collections import deque
from functools import wraps
from typing import TYPE_CHECKING, Any

from dask.sizeof import sizeof

from fed._dask_private.tasks import name_of_key

if TYPE_CHECKING:
    from collections.abc import Callable


class _Log(deque[Any]):
    """One of Dask's two logs of a worker's transfers, which tells of each entry."""

    def __init__(self, entries: Any, maxlen: int | None, tell: Callable[[Any], None]) -> None:
        super().__init__(entries, maxlen)
        self._tell = tell

    def append(self, entry: Any) -> None:
        super().append(entry)
        self._tell(entry)


def hook_outgoing(worker: Any, count: Callable[[str, str, int], None]) -> None:
    """Call a function with everything that a worker sends to another.

    Parameters
    ----------
    worker
        The worker.
    count
        Takes the peer's address, the name in the key (the barrier's, for a shard of a
        peer-to-peer shuffle), and bytes.
    """

    def tell(entry: Any) -> None:
        if entry["who"] is not None:
            for key, nbytes in entry["keys"].items():
                count(entry["who"], name_of_key(key) or str(key), nbytes)

    log = worker.transfer_outgoing_log
    worker.transfer_outgoing_log = _Log(log, log.maxlen, tell)
    _hook_shards(count)


def hook_incoming(worker: Any, tell: Callable[[str, int, float], None]) -> None:
    """Call a function with every transfer that a worker has fetched from another.

    Parameters
    ----------
    worker
        The worker.
    tell
        Takes the peer's address, bytes, and seconds from the request to the last byte.
    """

    def pass_on(entry: Any) -> None:
        tell(entry["who"], entry["total"], entry["duration"])

    log = worker.transfer_incoming_log
    worker.transfer_incoming_log = _Log(log, log.maxlen, pass_on)


def hook_nannies(on_end: Callable[[str], object]) -> None:
    """Call a function when a worker tells its nanny, in this process, not to start it again.

    Parameters
    ----------
    on_end
        Takes the reason, as the worker gives it.
    """
    from distributed.nanny import Nanny

    plain = Nanny.close_gracefully

    @wraps(plain)
    def close_gracefully(self: Any, reason: str = "nanny-close-gracefully") -> None:
        on_end(reason)
        plain(self, reason=reason)

    Nanny.close_gracefully = close_gracefully


def _hook_shards(count: Callable[[str, str, int], None]) -> None:
    from distributed.shuffle._core import ShuffleRun, barrier_key

    plain = ShuffleRun._send
    if getattr(plain, "fed", False):
        return

    @wraps(plain)
    async def _send(self: Any, address: str, shards: Any) -> Any:
        if address != self.local_address:
            size = len(shards) if isinstance(shards, bytes) else sizeof(shards)
            count(address, str(barrier_key(self.id)), size)
        return await plain(self, address, shards)

    _send.fed = True  # type: ignore[attr-defined]
    ShuffleRun._send = _send
