"""The private names of Dask that fed uses: all there, with the parameters fed relies on."""

from __future__ import annotations

import ast
import asyncio
import re
import tomllib
from types import SimpleNamespace
from typing import Any

import dask
import distributed
import pytest

from fed import _dask_private as dask_private
from fed.scheduler import dask_setup
from fed.versions import SUPPORTED_DASK, check_dask, is_supported
from tests.python.federations import PACKAGE


@pytest.mark.parametrize("use", dask_private.USED + dask_private.USED_WITH_FRAMES, ids=str)
def test_the_name_is_there(use: tuple[str, str, tuple[str, ...]]) -> None:
    assert dask_private.missing((use,)) == []


@pytest.mark.parametrize(
    ("use", "gap"),
    [
        (("dask.gone", "x", ()), "dask.gone:x"),
        (("dask.tokenize", "_gone", ()), "dask.tokenize:_gone"),
        (("dask.tokenize", "_tokenize", ("gone", "args")), "dask.tokenize:_tokenize(gone)"),
    ],
)
def test_a_name_that_disappears_is_noticed(use: Any, gap: str) -> None:
    assert dask_private.missing((use,)) == [gap]


def test_this_dask_is_supported_and_the_project_file_says_the_same() -> None:
    assert is_supported(dask.__version__)
    assert is_supported(distributed.__version__)
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    wanted = {f"dask[array]{SUPPORTED_DASK}", f"distributed{SUPPORTED_DASK}"}
    assert wanted <= set(project["dependencies"])


@pytest.mark.parametrize(
    ("version", "supported"),
    [
        ("2026.8.0", True),
        ("2026.8.3", True),
        ("2026.8.1+local.4", True),
        ("2026.7.1", False),
        ("2026.9.0", False),
        ("2027.1.0", False),
    ],
)
def test_supported_versions(version: str, supported: bool) -> None:
    assert is_supported(version) is supported


@pytest.mark.parametrize("other", ["dask", "distributed"])
@pytest.mark.parametrize("version", ["2026.7.1", "2026.9.0", "2027.1.0"])
def test_a_scheduler_does_not_start_with_another_dask(
    monkeypatch: pytest.MonkeyPatch, other: str, version: str
) -> None:
    monkeypatch.setattr(f"{other}.__version__", version)
    with pytest.raises(RuntimeError) as caught:
        check_dask()
    assert str(caught.value) == (
        f"{other} {version} found, but fed supports >=2026.8.0,<2026.9 of dask and distributed:"
        ' install "dask>=2026.8.0,<2026.9" "distributed>=2026.8.0,<2026.9" with pip, here and at'
        " every site."
    )
    scheduler = SimpleNamespace()  # nothing of it is touched
    with pytest.raises(SystemExit, match=re.escape(str(caught.value))):
        asyncio.run(dask_setup(scheduler))


def test_a_patch_release_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask.__version__", "2026.8.4")
    monkeypatch.setattr("distributed.__version__", "2026.8.4")
    check_dask()


def test_private_names_of_dask_are_used_in_one_module_only() -> None:
    """Also not by import: `from dask._x import y` and `object._x` stand in `_dask_private`."""
    found = []
    for path in sorted((PACKAGE / "fed").rglob("*.py")):
        if path.parent.name == "_dask_private":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                private = re.match(r"_[a-z]", node.attr) and owner not in {"self", "cls"}
                if private and not owner.endswith("_dask_private"):
                    found.append(f"{path.name}: {node.attr}")
            if isinstance(node, ast.ImportFrom) and re.match(
                r"(?!fed\b).*\._[a-z]", node.module or ""
            ):
                found.append(f"{path.name}: {node.module}")
    # PoolStealing overrides that one, and calls what it overrides; it is listed in USED.
    assert found == ["stealing.py: _get_thief"]
