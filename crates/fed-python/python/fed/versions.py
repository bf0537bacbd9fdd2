"""The versions of Dask that this package is written for."""

from __future__ import annotations

SUPPORTED_DASK = ">=2026.8.0,<2026.9"
"""Requirement on both ``dask`` and ``distributed``; pyproject.toml repeats it."""

_FIRST = (2026, 8, 0)
_BEYOND = (2026, 9)


def is_supported(version: str) -> bool:
    """Tell whether a version of ``dask`` or ``distributed`` is inside ``SUPPORTED_DASK``."""
    public, _, _local = version.partition("+")
    numbers = tuple(int(part) for part in public.split(".") if part.isdigit())
    return _FIRST <= numbers < _BEYOND
