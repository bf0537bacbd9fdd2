"""Decides, at the site, whether an opener's result is lazy enough to leave it."""

from __future__ import annotations

from typing import Any

import dask

from fed.errors import NotLazyError
from fed.graphs import is_tree
from fed.held import bytes_held

VARIABLE_LIMIT = 1 << 20
"""Bytes of one in-memory variable, or auxiliary coordinate, that may travel with the metadata."""

INDEX_LIMIT = 64 << 20
"""Bytes of one index, which xarray always holds in memory."""

_ADVICE = (
    "fed.load hands out lazy objects only, so that the data stays at the site. Open it with"
    " chunks (chunks={} takes the file's own), or wrap the opener so that it returns a dask"
    " array, bag, delayed or dataframe, or an xarray object made of dask arrays."
)


def check_lazy(obj: Any, opener: str) -> None:
    """Check that an object holds its data as Dask tasks, not as bytes.

    Parameters
    ----------
    obj
        What an opener returned: a Dask collection, an xarray object, or a list, tuple or
        dictionary of them.
    opener
        Name of the opener, for the message.

    Raises
    ------
    NotLazyError
        If it is not lazy, or holds a variable in memory that is larger than the limits above.
    """
    if isinstance(obj, dict) and obj:
        for value in obj.values():
            check_lazy(value, opener)
        return
    if isinstance(obj, list | tuple) and obj and not hasattr(obj, "dtype"):
        for value in obj:
            check_lazy(value, opener)
        return
    variables = _variables(obj)
    if variables is not None:
        _check_variables(obj, variables, opener)
    elif not dask.is_dask_collection(obj):
        raise _not_lazy(obj, opener, f"a {_kind(obj)}")
    if dask.is_dask_collection(obj):
        _check_held(obj, opener)


def _check_held(obj: Any, opener: str) -> None:
    """Refuse data that was read first and cut into chunks then: it would leave with the graph."""
    held = bytes_held(obj)
    if held > VARIABLE_LIMIT:
        raise _not_lazy(
            obj,
            opener,
            f"a {_kind(obj)} whose chunks were made of {held:,} bytes in memory (at most"
            f" {VARIABLE_LIMIT:,} bytes may be)",
        )


def read_small(obj: Any) -> None:
    """Read, in place, the variables that are neither in memory nor made of Dask tasks.

    Xarray does not chunk scalars such as a height or a reference time. Left in their file, they
    could be read at the site only.

    Parameters
    ----------
    obj
        What `check_lazy` has let pass, so these variables are small.
    """
    if isinstance(obj, dict):
        for value in obj.values():
            read_small(value)
    elif isinstance(obj, list | tuple):
        for value in obj:
            read_small(value)
    else:
        for variable in (_variables(obj) or {}).values():
            if not dask.is_dask_collection(variable):
                variable.load()


def _variables(obj: Any) -> dict[str, Any] | None:
    """Return the variables of an xarray object by name, or None for anything else."""
    if is_tree(obj):
        return {
            f"{node.path}/{name}": variable
            for node in obj.subtree
            for name, variable in node.to_dataset(inherit=False).variables.items()
        }
    if type(obj).__module__.partition(".")[0] != "xarray":
        return None  # a Delayed claims to have every attribute asked for below
    if hasattr(obj, "_to_temp_dataset"):  # a DataArray
        return {str(obj.name): obj.variable, **{str(k): v.variable for k, v in obj.coords.items()}}
    if hasattr(obj, "variables"):
        return {str(name): variable for name, variable in obj.variables.items()}
    return {"": obj} if hasattr(obj, "nbytes") else None  # a bare Variable


def _check_variables(obj: Any, variables: dict[str, Any], opener: str) -> None:
    lazy = False
    bulk = False
    for name, variable in variables.items():
        if dask.is_dask_collection(variable):
            lazy = True
            continue
        is_index = type(variable).__name__ == "IndexVariable"
        bulk = bulk or not is_index
        limit = INDEX_LIMIT if is_index else VARIABLE_LIMIT
        if variable.nbytes > limit:
            raise _not_lazy(
                obj,
                opener,
                f"a {_kind(obj)} whose variable {name!r} of {variable.nbytes:,} bytes is not"
                f" lazy (at most {limit:,} bytes may be)",
            )
    if bulk and not lazy:
        raise _not_lazy(obj, opener, f"a {_kind(obj)} without a lazy variable")


def _kind(obj: Any) -> str:
    return f"{type(obj).__module__.partition('.')[0]}.{type(obj).__name__}"


def _not_lazy(obj: Any, opener: str, found: str) -> NotLazyError:
    return NotLazyError(f"{opener} returned {found}. {_ADVICE}", kind=_kind(obj))
