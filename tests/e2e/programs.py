"""The programs under test: `fed`, and the interpreter of client, scheduler and workers."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from tests.e2e.lab import ROOT

PACKAGE = ROOT / "crates" / "fed-python" / "python"

TEMPORARY = "/var/tmp"
"""Each host's own folder for temporary files."""


@cache
def fed() -> Path:
    """Return the program: ``$FED_BINARY``, else the one under ``target/debug``."""
    return _program("FED_BINARY", ROOT / "target/debug/fed", "`cargo build -p fed-cli` builds it")


@cache
def python() -> Path:
    """Return the interpreter: ``$FED_TEST_PYTHON``, else the one of ``target/venv``."""
    default = ROOT / "target/venv/bin/python"
    return _program("FED_TEST_PYTHON", default, "`cargo xtask test` makes it")


def _program(variable: str, default: Path, hint: str) -> Path:
    path = Path(os.environ.get(variable, default))
    if not os.access(path, os.X_OK):
        raise FileNotFoundError(f"{path} is missing: {hint}, and ${variable} names another")
    return path


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of programs in a host: without what would change fed or Dask."""
    changing = ("FED_", "DASK_", "PYTEST_", "PYTHON", "VIRTUAL_ENV", "CONDA_", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(changing)}
    return {**kept, "TMPDIR": TEMPORARY, **extra}
