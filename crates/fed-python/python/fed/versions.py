"""The versions of Dask that this package is written for, and those that a federation runs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import dask
import distributed

from fed.errors import OtherVersionError

if TYPE_CHECKING:
    from fed.federation import Federation

SUPPORTED_DASK = ">=2026.8.0,<2026.9"
"""Requirement on both ``dask`` and ``distributed``; pyproject.toml repeats it."""

_FIRST = (2026, 8, 0)
_BEYOND = (2026, 9)


def is_supported(version: str) -> bool:
    """Tell whether a version of ``dask`` or ``distributed`` is inside ``SUPPORTED_DASK``."""
    public, _, _local = version.partition("+")
    numbers = tuple(int(part) for part in public.split(".") if part.isdigit())
    return _FIRST <= numbers < _BEYOND


def check_dask() -> None:
    """Refuse a Dask that this package is not written for; patch releases may differ.

    Its private names, of which fed uses some, may mean something else there and still exist.

    Raises
    ------
    RuntimeError
        If ``dask`` or ``distributed`` is outside ``SUPPORTED_DASK``.
    """
    here = (("dask", dask.__version__), ("distributed", distributed.__version__))
    others = [f"{name} {version}" for name, version in here if not is_supported(version)]
    if others:
        raise RuntimeError(
            f"{' and '.join(others)} found, but fed supports {SUPPORTED_DASK} of dask and"
            f" distributed: install"
            f' "dask{SUPPORTED_DASK}" "distributed{SUPPORTED_DASK}" with pip, here and at every'
            " site."
        )


def _minor(text: str) -> str:
    return ".".join(text.split(".")[:2])


def check_versions(federation: Federation) -> None:
    """Refuse a client that cannot understand the scheduler of a federation.

    Dask sends pickled Python: another ``distributed``, or another minor version of Python, fails
    late and unreadably.

    Raises
    ------
    OtherVersionError
        If this process has another version of either.
    """
    here = {"python": platform.python_version()}
    for package in ("dask", "distributed"):
        try:
            here[package] = version(package)
        except PackageNotFoundError:  # a source tree: nothing is known
            continue
    for row in federation.versions.get("rows", ()):
        package, there = row["package"], row.get("operator")
        own = here.get(package)
        if there is None or own is None:
            continue
        if package == "python":
            there, own = _minor(there), _minor(own)
        if own != there:
            raise OtherVersionError(
                f"federation {federation.name!r} runs {package} {there}, and this process has"
                f" {own}. Use the environment that `fed up` was called with, or end the"
                f" federation and call `fed up` with this one (`--python`).",
                package=package,
                federation=there,
                here=own,
            )
