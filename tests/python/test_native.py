"""The compiled part: what Python hands to it and gets back, and how it is found."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fed
from fed._native import _fed
from tests.python.federations import PACKAGE

# Two pinned sources of 1000 and 10 bytes, and a task that reads both.
OUTPUT_BYTES = [1000, 10, 1]
INDPTR = [0, 0, 0, 2]
INDICES = [0, 1]
ALLOWED = [0b01, 0b10, 0]
COST = [[0.0, 1.0], [1.0, 0.0]]


def place(kind: Any = list, **changes: Any) -> _fed.Placement:
    given: dict[str, Any] = {
        "output_bytes": kind("Q", OUTPUT_BYTES) if kind is array else OUTPUT_BYTES,
        "indptr": kind("I", INDPTR) if kind is array else INDPTR,
        "indices": kind("I", INDICES) if kind is array else INDICES,
        "allowed": kind("Q", ALLOWED) if kind is array else ALLOWED,
        "cost": COST,
    }
    return _fed.place(**(given | changes))


@pytest.mark.parametrize("kind", [list, array])
def test_a_task_runs_where_most_of_its_input_lies(kind: Any) -> None:
    placement = place(kind)
    assert placement.pools == [0, 1, 0]
    assert list(placement.reasons) == [_fed.PINNED, _fed.PINNED, _fed.WITH_INPUTS]
    assert placement.crossing_bytes == [[0, 0], [10, 0]]
    assert placement.cost == placement.plain_cost == 10
    assert dict(placement.counts)[_fed.PINNED] == 2
    assert len(placement) == 3
    assert "3 tasks over 2 pools" in repr(placement)


def test_a_task_follows_those_that_need_it_where_that_is_cheaper() -> None:
    # Where most of its input lies the output of the first would have to cross: 8 against 5.
    placement = _fed.place([5, 4, 8, 1], [0, 0, 0, 2, 3], [0, 1, 2], [1, 2, 0, 2], COST)
    assert placement.pools == [0, 1, 1, 1]
    assert placement.reasons[2] == _fed.WITH_CONSUMERS
    assert placement.savings[2] == 8 + 4 - 5
    assert (placement.cost, placement.plain_cost, placement.lower_bound) == (5, 12, 5)


def test_tasks_that_nothing_ties_to_a_pool_stay_free() -> None:
    placement = _fed.place([5, 5], [0, 0, 1], [0], [0, 0], COST)
    assert placement.pools == [-1, -1]
    assert list(placement.reasons) == [_fed.FREE, _fed.FREE]


def test_numpy_arrays_are_taken() -> None:
    placement = place(
        output_bytes=np.array(OUTPUT_BYTES, dtype=np.uint64),
        indptr=np.array(INDPTR, dtype=np.uint32),
        indices=np.array(INDICES, dtype=np.uint32),
        allowed=np.array(ALLOWED, dtype=np.uint64),
        cost=np.array(COST),
    )
    assert placement.pools == [0, 1, 0]


def test_what_is_present_in_a_pool_costs_nothing_there() -> None:
    placement = place(present=[0b10, 0, 0], allowed=[0, 0b10, 0])
    assert placement.pools == [1, 1, 1]
    assert placement.reasons[0] == _fed.PRESENT
    assert placement.cost == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"indptr": [0, 0, 2]}, "indptr has 3 entries"),
        ({"indices": [0, 7]}, "depends on task 7"),
        ({"indices": [0, 2]}, "waits for itself"),
        ({"allowed": [4, 0, 0]}, "task 0 names pools 0b100"),
        ({"cost": [[0.0, 1.0]]}, "row 0 has 2 of 1"),
        ({"cost": [[0.0, float("nan")], [1.0, 0.0]]}, "is NaN"),
        ({"surcharge": 2.0}, "surcharge is 2"),
        ({"capacity": [1]}, "capacity has 1"),
    ],
)
def test_contradictions_are_refused_with_what_is_wrong(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        place(**changes)


def test_another_type_is_refused_with_the_name_of_the_argument() -> None:
    with pytest.raises(TypeError, match="output_bytes is neither"):
        place(output_bytes=[-1, 2, 3])
    with pytest.raises(TypeError, match="indices is neither"):
        place(indices="ab")


def test_the_release_is_the_packages() -> None:
    assert _fed.__version__ == fed.__version__


def _run(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """Run code with these folders, and nothing installed, on the path."""
    path = os.pathsep.join(map(str, folders))
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _copy(target: Path, version: str = fed.__version__) -> Path:
    """Copy the package's pure part, as the command fed carries it."""
    folder = target / "fed"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "_native.py", "errors.py"):
        text = (PACKAGE / "fed" / name).read_text()
        (folder / name).write_text(text.replace(fed.__version__, version))
    return target


def test_a_pure_copy_takes_the_compiled_part_of_the_installed_package(tmp_path: Path) -> None:
    code = "import fed; from fed._native import _fed; print(fed.__file__, _fed.__file__)"
    result = _run(code, _copy(tmp_path / "copy"), PACKAGE)
    assert result.returncode == 0, result.stderr
    package, native = result.stdout.split()
    assert Path(package).is_relative_to(tmp_path.resolve())
    assert Path(native).is_relative_to(PACKAGE.resolve())


def test_without_the_compiled_part_the_error_names_the_interpreter(tmp_path: Path) -> None:
    result = _run("import fed._native", _copy(tmp_path))
    assert result.returncode != 0
    assert f"is not installed for {sys.executable}: install" in result.stderr


def test_another_release_of_the_compiled_part_is_refused(tmp_path: Path) -> None:
    result = _run("import fed._native", _copy(tmp_path, "9.9.9"), PACKAGE)
    assert result.returncode != 0
    assert f"is of fed {fed.__version__}, but this is fed 9.9.9" in result.stderr
