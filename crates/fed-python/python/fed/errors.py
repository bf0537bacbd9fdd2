"""The errors of fed: one base class, and one subclass per thing that a user can act on.

Every message says what failed, where, and what to do. All of them can be pickled, because
most are raised on the scheduler or on a worker and are read in a notebook.
"""

from __future__ import annotations

from typing import Any


class FedError(Exception):
    """Base of every error that fed raises.

    Parameters
    ----------
    message
        What failed, where, and what to do.
    **fields
        The values that the message speaks of, kept as attributes.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.__dict__.update(fields)


class PoolConflictError(FedError):
    """One task is claimed by more than one pool. Attributes: ``task``, ``pools``."""

    task: object
    pools: tuple[str, ...]


class StalePinError(FedError):
    """A task was pinned after it had already run, unpinned, in another pool.

    Attributes: ``task``, ``pool``, ``ran_in``.
    """

    task: object
    pool: str
    ran_in: str


class UnknownPoolError(FedError):
    """No pool of that name is in the federation. Attributes: ``pool``, ``known``."""

    pool: str
    known: tuple[str, ...]


class WrongPoolError(FedError):
    """A pinned task was about to run outside its pool. Attributes: ``pool``, ``here``."""

    pool: str
    here: tuple[str, ...]


class EmptyPoolError(FedError):
    """A task has waited too long for a pool without workers.

    Attributes: ``task``, ``pool``, ``site``.
    """

    task: object
    pool: str
    site: str


class OtherVersionError(FedError):
    """A client has other software than the federation it connects to.

    Attributes: ``package``, ``federation`` and ``here`` (versions).
    """

    package: str
    federation: str
    here: str


class UnknownPathError(FedError):
    """No pool is known to hold a path. Attributes: ``path``, ``roots``."""

    path: str
    roots: tuple[str, ...]


class AmbiguousPathError(FedError):
    """More than one pool holds a path. Attributes: ``path``, ``pools``."""

    path: str
    pools: tuple[str, ...]


class NotLazyError(FedError):
    """There is data where a lazy object is needed. Attribute: ``kind``."""

    kind: str


class MissingModuleError(FedError):
    """A worker cannot import what a task needs.

    Attributes: ``module``, ``worker``, ``pool``, ``site``.
    """

    module: str | None
    worker: str
    pool: str
    site: str | None


class NotRunningError(FedError):
    """There is no running federation to connect to. Attribute: ``name``."""

    name: str | None


class NativeError(FedError):
    """The compiled part of fed is missing or of another release. Attribute: ``python``."""

    python: str
