"""The compiled part of fed: ``from fed._native import _fed``.

A scheduler runs on the copy of this package that the command ``fed`` carries. It is pure Python,
and shadows the package that is installed for the interpreter; the compiled part is taken from
that one.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING

import fed
from fed.errors import NativeError

if TYPE_CHECKING:
    from types import ModuleType

    from fed import _fed

__all__ = ["_fed"]

_NAME = "fed._fed"


def _load() -> ModuleType:
    """Return `fed._fed`, out of whichever package ``fed`` on the path has it.

    Raises
    ------
    NativeError
        If none has it, or it is of another release than this package.
    """
    module = sys.modules.get(_NAME)
    if module is None:
        folders = [str(Path(entry, "fed")) for entry in sys.path]
        spec = PathFinder.find_spec(_NAME, folders)
        if spec is None or spec.loader is None:
            raise NativeError(
                f"the compiled part of fed is not installed for {sys.executable}: install the"
                f" Python package fed {fed.__version__} there (pip install), or name another"
                " interpreter with --python",
                python=sys.executable,
            )
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        _check(module)
        sys.modules[_NAME] = module
    return module


def _check(module: ModuleType) -> None:
    if module.__version__ != fed.__version__:
        raise NativeError(
            f"{module.__file__} is of fed {module.__version__}, but this is fed"
            f" {fed.__version__}: install the same release of the Python package fed for"
            f" {sys.executable}",
            python=sys.executable,
        )


if not TYPE_CHECKING:
    _fed = _load()
