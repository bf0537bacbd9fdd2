"""Which pool holds a path: from the sites' data roots, and from what a user registers."""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fed.errors import AmbiguousPathError, UnknownPathError
from fed.federation import Pool, pools_of_current_client
from fed.names import check_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_PLACEHOLDER = "{pool}"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_path_like(value: object) -> bool:
    """Tell whether a value is an absolute path, a URL, or an `os.PathLike`."""
    if isinstance(value, os.PathLike):
        return isinstance(os.fspath(value), str)
    return isinstance(value, str) and (value.startswith("/") or _URL.search(value) is not None)


def components(path: str) -> tuple[str, ...]:
    """Split an absolute path or a URL into the components that prefixes are compared by.

    A URL's scheme and host are one component each, and ``file:`` URLs are paths. Of a chain
    (``simplecache::s3://bucket/x``) the last link counts, as it is the one that is stored.

    Returns
    -------
    tuple of str
        Empty if ``path`` is neither absolute nor a URL.
    """
    link = path.rsplit("::", 1)[-1]
    if not (link.startswith("/") or _URL.match(link)):
        link = next((part for part in path.split("::") if is_path_like(part)), link)
    match = _URL.match(link)
    if match is None:
        return ("/", *_clean(link)) if link.startswith("/") else ()
    scheme, rest = link[: match.end() - 3].lower(), link[match.end() :]
    if scheme == "file":
        return ("/", *_clean(rest.partition("/")[2]))
    host, _, tail = rest.partition("/")
    return (f"{scheme}://", host, *_clean(tail))


def _clean(path: str) -> tuple[str, ...]:
    normal = posixpath.normpath("/" + path.lstrip("/"))
    return tuple(part for part in normal.split("/") if part)


@dataclass(frozen=True)
class _Rule:
    """A prefix and its pool; in a template, one component stands for the pool."""

    prefix: tuple[str, ...]
    text: str
    pool: str | None

    def pool_for(self, path: tuple[str, ...]) -> str | None:
        if len(path) < len(self.prefix):
            return None
        pool = self.pool
        for wanted, part in zip(self.prefix, path, strict=False):
            if self.pool is None and _PLACEHOLDER in wanted:
                before, after = wanted.split(_PLACEHOLDER)
                inner = part[len(before) : len(part) - len(after)]
                if not inner or part != before + inner + after:
                    return None
                pool = inner
            elif wanted != part:
                return None
        return pool


class Catalog:
    """Finds the pool that holds a path.

    The longest matching prefix wins, component by component: ``/data/a`` holds ``/data/a/x``
    and not ``/data/ab``. Of two equally long ones, a registered one goes before a site's data
    root. Registered functions are asked before any prefix, the newest first.

    Parameters
    ----------
    pools
        The pools whose data roots to use; by default, those of the federation that the current
        client is connected to, at each look-up.

    Examples
    --------
    >>> catalog = Catalog(pools=())
    >>> catalog.register("/data/{pool}/")
    >>> catalog.register("s3://archive/obs", "eumetsat")
    >>> catalog.pool_of("/data/ecmwf/predictions.nc")
    'ecmwf'
    >>> catalog.pool_of("s3://archive/obs/2022.zarr")
    'eumetsat'
    """

    def __init__(self, pools: Iterable[Pool] | None = None) -> None:
        self._pools = None if pools is None else tuple(pools)
        self._rules: dict[tuple[str, ...], _Rule] = {}
        self._functions: list[Callable[[str], str | None]] = []

    def register(
        self, source: str | Mapping[str, str] | Callable[[str], str | None], pool: str | None = None
    ) -> None:
        """Add to what is known; a prefix that is registered again is replaced.

        Parameters
        ----------
        source
            A prefix (a path or URL, with ``pool``), a table of pools by prefix, a template such
            as ``"/data/{pool}/"``, or a function that takes a path and returns its pool or None.
        pool
            The pool, if ``source`` is a prefix.

        Raises
        ------
        ValueError
            If ``source`` is no absolute path or URL, or the pool is missing or one too many.
        UnknownPoolError
            If ``pool`` is no possible name of a pool.
        """
        if isinstance(source, str):
            self._register_prefix(source, pool)
        elif pool is not None:
            raise ValueError("pool= goes with a prefix, not with a table or a function")
        elif callable(source):
            self._functions.append(source)
        else:
            for prefix, name in source.items():
                self._register_prefix(prefix, name)

    def _register_prefix(self, text: str, pool: str | None) -> None:
        prefix = components(text)
        if not prefix:
            raise ValueError(f"{text!r} is neither an absolute path nor a URL")
        is_template = _PLACEHOLDER in text
        if is_template == (pool is not None):
            raise ValueError(
                f"{text!r} needs either a pool or one {_PLACEHOLDER}: register({text!r}, pool)"
                f" or register('/data/{_PLACEHOLDER}/')"
            )
        if is_template and text.count(_PLACEHOLDER) > 1:
            raise ValueError(f"{text!r} has {_PLACEHOLDER} more than once")
        if pool is not None:
            check_pool(pool)
        self._rules[prefix] = _Rule(prefix, text, pool)

    def clear(self) -> None:
        """Forget everything that was registered."""
        self._rules.clear()
        self._functions.clear()

    def roots(self) -> tuple[str, ...]:
        """Return every known prefix, template and data root, with its pool."""
        registered = {
            rule.text if rule.pool is None else f"{rule.text} ({rule.pool})"
            for rule in self._rules.values()
        }
        sites = {f"{root} ({pool.name})" for pool in self._site_pools() for root in pool.data_roots}
        return tuple(sorted(registered | sites))

    def pool_of(self, path: Any) -> str:
        """Return the pool that holds a path.

        Parameters
        ----------
        path
            An absolute path, as the site's workers see it, or a URL.

        Raises
        ------
        UnknownPathError
            If no pool is known to hold it; the message lists the known roots.
        AmbiguousPathError
            If several pools hold it equally.
        UnknownPoolError
            If a registered function or template gives a name that no pool can have.
        """
        text = os.fspath(path)
        for function in reversed(self._functions):
            pool = function(text)
            if pool is not None:
                return check_pool(pool)
        parts = components(text)
        if not parts:
            raise self._unknown(text, "is neither an absolute path nor a URL, so no site knows it")
        length, pool = self._best_rule(parts)
        site_length, candidates = self._best_sites(parts)
        if pool is not None and length >= site_length:
            return check_pool(pool)
        if not candidates:
            raise self._unknown(text, "lies under no known root")
        return _the_one(text, candidates)

    def _best_rule(self, parts: tuple[str, ...]) -> tuple[int, str | None]:
        best: tuple[int, bool, str | None] = (-1, False, None)
        for rule in self._rules.values():
            pool = rule.pool_for(parts)
            if pool is not None:
                # Of equally long ones, a plain prefix says more than a template.
                best = max(best, (len(rule.prefix), rule.pool is not None, pool))
        return best[0], best[2]

    def _best_sites(self, parts: tuple[str, ...]) -> tuple[int, list[Pool]]:
        longest, candidates = -1, []
        for pool in self._site_pools():
            for root in pool.data_roots:
                prefix = components(root)
                if not prefix or parts[: len(prefix)] != prefix:
                    continue
                if len(prefix) > longest:
                    longest, candidates = len(prefix), [pool]
                elif len(prefix) == longest and pool not in candidates:
                    candidates.append(pool)
        return longest, candidates

    def _site_pools(self) -> tuple[Pool, ...]:
        return pools_of_current_client() if self._pools is None else self._pools

    def _unknown(self, path: str, problem: str) -> UnknownPathError:
        roots = self.roots()
        listed = f"The known roots are: {', '.join(roots)}." if roots else "No root is known."
        return UnknownPathError(
            f"{path!r} {problem}. {listed} Say pool=, or register its prefix with"
            " fed.catalog.register(prefix, pool).",
            path=path,
            roots=roots,
        )


def _the_one(path: str, candidates: list[Pool]) -> str:
    if len(candidates) == 1:
        return candidates[0].name
    sites = {pool.site for pool in candidates}
    if len(sites) == 1:
        # Pools of one site share its data roots; the one that bears its name is the default.
        default = next((pool.name for pool in candidates if pool.name in sites), None)
        if default is not None:
            return default
    names = tuple(sorted(pool.name for pool in candidates))
    raise AmbiguousPathError(
        f"{path!r} is held by pools {' and '.join(repr(name) for name in names)}. Say which:"
        f" pool={names[0]!r}.",
        path=path,
        pools=names,
    )


catalog = Catalog()
"""The catalog that `fed.load` uses: the current client's sites, and what this process registers."""
