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
        (("distributed.client", "Client._gone", ()), "distributed.client:Client._gone"),
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


def private_names(tree: ast.AST) -> list[tuple[str, str]]:
    """Return what is read under a private name, as the owner, if it is a name, and the name."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.append((node.value.id if isinstance(node.value, ast.Name) else "", node.attr))
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"getattr", "setattr", "hasattr", "delattr"}
            and isinstance(node.args[1], ast.Constant)
        ):
            owner = node.args[0].id if isinstance(node.args[0], ast.Name) else ""
            found.append((owner, str(node.args[1].value)))
    return [(owner, name) for owner, name in found if re.match(r"_[a-z]", name)]


def made_here(tree: ast.AST) -> set[str]:
    """Return the private names that a module itself defines, or keeps in its own objects."""
    made = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            made.add(node.target.id)  # in the body of a class
        if isinstance(node, ast.ClassDef):
            made |= {
                part.attr
                for part in ast.walk(node)
                if isinstance(part, ast.Attribute)
                and isinstance(part.ctx, ast.Store)
                and ast.unparse(part.value) == "self"
            }
    return made


def test_every_private_name_that_is_used_is_listed() -> None:
    used = dask_private.USED + dask_private.USED_WITH_FRAMES
    listed = {part for _module, name, _parameters in used for part in name.split(".")}
    missing = []
    for path in sorted((PACKAGE / "fed" / "_dask_private").glob("*.py")):
        tree = ast.parse(path.read_text())
        known = listed | made_here(tree)
        missing += [f"{path.name}: {n}" for _owner, n in private_names(tree) if n not in known]
    assert missing == []


@pytest.mark.parametrize(
    "text", ["x._meta", "getattr(x, '_meta')", "setattr(x.y, '_meta', 1)", "from x import _meta"]
)
def test_each_way_to_use_a_private_name_is_seen(text: str) -> None:
    assert [name for _owner, name in private_names(ast.parse(text))] == ["_meta"]


def test_private_names_of_dask_are_used_in_one_module_only() -> None:
    """Also not by import: `from dask._x import y` and `object._x` stand in `_dask_private`."""
    found = []
    for path in sorted((PACKAGE / "fed").rglob("*.py")):
        if path.parent.name == "_dask_private":
            continue
        tree = ast.parse(path.read_text())
        for owner, name in private_names(tree):
            own = owner in {"self", "cls"} or owner.split(".")[0] == "fed"
            if not own and not owner.endswith("_dask_private"):
                found.append(f"{path.name}: {name}")
        found += [
            f"{path.name}: {node.module}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and re.match(r"(?!fed\b).*\._[a-z]", node.module or "")
        ]
    # The first is xarray's. PoolStealing overrides the second, and calls what it overrides; it is
    # listed in USED.
    assert found == ["laziness.py: _to_temp_dataset", "stealing.py: _get_thief"]
