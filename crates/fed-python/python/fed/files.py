"""How the chunks of xarray objects lie in the chunks of the files that they are read from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


def misaligned(objects: Iterable[Any]) -> list[str]:
    """Return advice on variables whose chunks cut across those of their files.

    Parameters
    ----------
    objects
        Anything; only xarray objects that still know their file's chunks are looked at.
    """
    found = []
    for obj in objects:
        for name, variable in _variables(obj):
            stored = variable.encoding.get("chunksizes") or variable.encoding.get("chunks")
            if stored is None or variable.chunks is None or len(stored) != len(variable.chunks):
                continue
            cut = [
                (dimension, lengths[0], length)
                for dimension, lengths, length in zip(
                    variable.dims, variable.chunks, stored, strict=True
                )
                if isinstance(length, int) and _cuts(lengths, length)
            ]
            found += [
                f"{name}: chunks of {ours} along {dimension!r} cut across the file's of {theirs}:"
                f" parts of the file are read more than once. Take a multiple of {theirs}."
                for dimension, ours, theirs in cut
            ]
    return found


def _cuts(lengths: tuple[int, ...], stored: int) -> bool:
    """Tell whether a border between chunks lies inside a chunk of the file."""
    position = 0
    for length in lengths[:-1]:
        position += length
        if position % stored:
            return True
    return False


def _variables(obj: Any) -> list[tuple[str, Any]]:
    if type(obj).__module__.partition(".")[0] != "xarray":
        return []
    if hasattr(obj, "data_vars"):
        return [(str(name), array.variable) for name, array in obj.data_vars.items()]
    variable = getattr(obj, "variable", None)
    return [] if variable is None else [(str(obj.name), variable)]
