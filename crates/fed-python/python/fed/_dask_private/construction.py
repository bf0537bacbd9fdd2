"""Hooks into the construction of graphs: the pool becomes a part of tokens and of tasks."""

from __future__ import annotations

import hashlib
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def hook_tokens(current_pool: Callable[[], str | None], on_token: Callable[[], None]) -> None:
    """Make the current pool a part of every token, and so of every key.

    `dask.tokenize.tokenize` looks `_tokenize` up in its module at each call.

    Parameters
    ----------
    current_pool
        Returns the pool of the calling context.
    on_token
        Called before a token is made inside a pool.
    """
    import dask.tokenize as module

    plain = module._tokenize
    if getattr(plain, "fed", False):
        return

    @wraps(plain)
    def _tokenize(*args: object, **kwargs: object) -> str:
        pool = current_pool()
        if pool is None:
            return str(plain(*args, **kwargs))
        on_token()
        token = f"{plain(*args, **kwargs)}@{pool}"
        return hashlib.md5(token.encode(), usedforsecurity=False).hexdigest()

    _tokenize.fed = True  # type: ignore[attr-defined]
    module._tokenize = _tokenize


def hook_layers(annotation: str, pin: Callable[[Any, str], Any]) -> None:
    """Mark the tasks of every layer that is built with a pool's annotation.

    Parameters
    ----------
    annotation
        The annotation that holds the pool.
    pin
        Returns a task, marked.
    """
    from dask.blockwise import Blockwise
    from dask.highlevelgraph import MaterializedLayer

    if getattr(Blockwise.__init__, "fed", False):
        return
    plain_blockwise = Blockwise.__init__
    plain_materialized = MaterializedLayer.__init__

    @wraps(plain_blockwise)
    def init_blockwise(self: Any, *args: Any, **kwargs: Any) -> None:
        plain_blockwise(self, *args, **kwargs)
        pool = (self.annotations or {}).get(annotation)
        if isinstance(pool, str):
            self.task = pin(self.task, pool)

    @wraps(plain_materialized)
    def init_materialized(self: Any, mapping: Any, *args: Any, **kwargs: Any) -> None:
        plain_materialized(self, mapping, *args, **kwargs)
        given = (self.annotations or {}).get(annotation)
        if given is None:
            return
        pinned = {}
        for key, value in mapping.items():
            pool = given(key) if callable(given) else given
            # Where Dask has merged layers, keys without a pool have a placeholder.
            pinned[key] = pin(value, pool) if isinstance(pool, str) else value
        self.mapping = pinned

    init_blockwise.fed = True  # type: ignore[attr-defined]
    Blockwise.__init__ = init_blockwise
    MaterializedLayer.__init__ = init_materialized
