"""Hooks into what moves data between workers: costs, replicas, the memory manager, requests."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Narrow = Callable[[Any, set[Any]], set[Any]]


def hook_costs(scheduler: Any, seconds: Callable[[Any, Any], float | None]) -> None:
    """Let a function say how long a task's inputs take to a worker.

    Parameters
    ----------
    scheduler
        A running scheduler.
    seconds
        Takes a `TaskState` and a `WorkerState`; None to leave it to Dask.
    """
    plain = scheduler.get_comm_cost

    def get_comm_cost(ts: Any, ws: Any) -> float:
        cost = seconds(ts, ws)
        return float(plain(ts, ws)) if cost is None else cost

    scheduler.get_comm_cost = get_comm_cost


def hook_holders(scheduler: Any, near: Callable[[Any, Any], list[str] | None]) -> None:
    """Let a function say from which workers a task's worker is to fetch an input.

    A worker that cannot get it there asks the scheduler, which names them all.

    Parameters
    ----------
    scheduler
        A running scheduler.
    near
        Takes the input's `TaskState` and the `WorkerState` that needs it, and returns addresses;
        None for all that hold it.
    """
    plain = scheduler._task_to_msg

    def _task_to_msg(ts: Any) -> dict[str, Any]:
        message: dict[str, Any] = plain(ts)
        worker = ts.processing_on
        if worker is None:
            return message
        who_has = message["who_has"]
        for dependency in ts.dependencies:
            if dependency.who_has and len(dependency.who_has) > 1:
                addresses = near(dependency, worker)
                if addresses is not None:
                    who_has[dependency.key] = tuple(addresses)
        return message

    scheduler._task_to_msg = _task_to_msg


_recipients: WeakKeyDictionary[Any, Narrow] = WeakKeyDictionary()
_droppers: WeakKeyDictionary[Any, Narrow] = WeakKeyDictionary()


def hook_memory_manager(scheduler: Any, recipients: Narrow, droppers: Narrow) -> None:
    """Narrow the memory manager's choice of workers that get, or give up, a replica.

    Retiring a worker makes a manager of its own, so the class is hooked.

    Parameters
    ----------
    scheduler
        A running scheduler.
    recipients, droppers
        Take a `TaskState` and workers that could get or give up a replica, and return some of
        them.
    """
    from distributed.active_memory_manager import ActiveMemoryManagerExtension as Manager

    _recipients[scheduler] = recipients
    _droppers[scheduler] = droppers
    if getattr(Manager._find_recipient, "fed", False):
        return
    plain_recipient, plain_dropper = Manager._find_recipient, Manager._find_dropper

    @wraps(plain_recipient)
    def _find_recipient(self: Any, ts: Any, candidates: Any, pending_repl: Any) -> Any:
        narrow = _recipients.get(self.scheduler)
        if narrow is not None and ts.who_has:
            every = self.scheduler.running if candidates is None else candidates
            candidates = narrow(ts, (every & self.scheduler.running) - ts.who_has - pending_repl)
        return plain_recipient(self, ts, candidates, pending_repl)

    @wraps(plain_dropper)
    def _find_dropper(self: Any, ts: Any, candidates: Any, pending_drop: Any) -> Any:
        narrow = _droppers.get(self.scheduler)
        if narrow is not None and ts.who_has:
            every = ts.who_has if candidates is None else candidates & ts.who_has
            candidates = narrow(ts, every - pending_drop)
        return plain_dropper(self, ts, candidates, pending_drop)

    _find_recipient.fed = True  # type: ignore[attr-defined]
    Manager._find_recipient = _find_recipient
    Manager._find_dropper = _find_dropper


def hook_request(
    scheduler: Any, name: str, instead: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    """Replace what a scheduler does at a client's request, and return what it did so far."""
    plain: Callable[..., Awaitable[Any]] = scheduler.handlers[name]
    scheduler.handlers[name] = instead
    return plain
