"""Names of pools, and how they appear in Dask's resources and annotations."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from fed.errors import UnknownPoolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

RESOURCE_PREFIX = "pool-"
"""A worker of pool ``x`` offers the resource ``pool-x``; a task pinned to it asks for 0 of it."""

PLACED = "fed_placed"
"""The annotation of a placed task: the name of its pool."""

ANNOTATION = "fed_pool"
"""The annotation that holds the pool's name beside the resource."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def resource_of(pool: str) -> str:
    """Return the name of the resource that stands for a pool."""
    return RESOURCE_PREFIX + pool


def pools_in(resources: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the pools named in a mapping of resources."""
    return frozenset(
        name.removeprefix(RESOURCE_PREFIX)
        for name in resources or ()
        if name.startswith(RESOURCE_PREFIX)
    )


def without_pools(resources: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the resources that do not stand for a pool."""
    return {
        name: amount
        for name, amount in (resources or {}).items()
        if not name.startswith(RESOURCE_PREFIX)
    }


def check_pool(pool: object, known: Iterable[str] = ()) -> str:
    """Return ``pool`` if it is a possible name and, where names are known, one of them.

    Parameters
    ----------
    pool
        The name to check.
    known
        The pools of the federation; empty when they are not known.

    Raises
    ------
    UnknownPoolError
        With the nearest known name, if there is one.
    """
    names = tuple(sorted(known))
    if isinstance(pool, str) and _NAME.fullmatch(pool) and (not names or pool in names):
        return pool
    near = difflib.get_close_matches(str(pool), names, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    there = f" Its pools are: {', '.join(names)}." if names else ""
    if not (isinstance(pool, str) and _NAME.fullmatch(pool)):
        there += (
            " A pool's name is made of lower-case letters, digits and hyphens, begins with"
            " a letter and has at most 31 characters."
        )
    raise UnknownPoolError(
        f"there is no pool {pool!r} in the federation.{guess}{there}",
        pool=pool,
        known=names,
    )
