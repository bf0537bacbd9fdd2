"""`fed.explain` and its advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.base import collections_to_expr

import fed
from fed import _dask_private as dask_private
from fed.advice import advise
from fed.drawing import NO_POOL, draw
from fed.files import misaligned
from tests.python.expressions import NORTH, SOUTH, Run
from tests.python.inprocess import pooled

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client


def explained(client: Client, data: Path) -> fed.Explanation:
    run = Run(client, data, fed.pool)
    lazy = run.blockwise(NORTH).mean(axis=1) - run.blockwise(SOUTH).mean(axis=1)
    explanation: fed.Explanation = fed.explain(lazy)
    return explanation


@pytest.mark.parametrize("given", [3, np.ones(3), xr.DataArray([1, 2])])
def test_what_has_no_tasks_is_refused_with_a_sentence(given: Any) -> None:
    with pytest.raises(fed.NotLazyError, match=r"would call \.compute\(\) on"):
        fed.explain(given)


def test_it_runs_nothing_and_tells_what_will_cross(client: Client, data: Path) -> None:
    before = fed.stats()["tasks_per_pool"]
    explanation = explained(client, data)
    assert fed.stats()["tasks_per_pool"] == before
    assert explanation.bytes_crossing == 300 * 8  # one mean of 300 rows
    pools = {layer["name"].split("-")[0]: set(layer["pools"]) for layer in explanation.layers}
    assert pools["read_numbered_block"] <= {NORTH, SOUTH}
    assert len(pools["sub"]) == 1


def test_as_text_as_html_and_as_a_picture(client: Client, data: Path, tmp_path: Path) -> None:
    explanation = explained(client, data)
    text = str(explanation)
    assert "pinned: its data lies there" in text
    assert "Expected to cross: 2.34 kiB" in text
    page = explanation._repr_html_()
    assert "<table>" in page
    assert "read_numbered_block" in page
    picture = str(explanation.visualize(tmp_path / "plan.svg"))
    assert (tmp_path / "plan.svg").read_text() == picture
    assert picture.startswith("<svg")
    assert NORTH in picture


def test_without_pools_it_says_so(client: Client) -> None:
    explanation = fed.explain(da.ones((10, 10), chunks=5).sum())
    assert "as on any Dask cluster" in str(explanation)
    assert explanation.bytes_crossing == 0


def test_tasks_that_may_run_anywhere_are_grey() -> None:
    layer = {"name": "x", "tasks": 2, "pools": {"any": 2}, "received": [], "inputs": [],
             "bytes_out": 1}  # fmt: skip
    assert NO_POOL in str(draw([layer], [NORTH]))


def layer(name: str, **values: Any) -> dict[str, Any]:
    pinned = {"pinned: its data lies there": 100}
    return {
        "name": name, "tasks": 100, "pools": {NORTH: 100}, "reasons": pinned, "received": [],
        "bytes_out": 100_000_000, "smallest": 1_000_000, "largest": 1_000_000, "inputs": [],
        **values,
    }  # fmt: skip


def report(*layers: dict[str, Any], memory: int = 64 << 30) -> dict[str, Any]:
    pools = [{"name": NORTH, "threads": 8, "memory": memory}]
    return {"pools": pools, "layers": list(layers), "crossing": []}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (report(layer("open-x", bytes_out=1_000_000)), "100 chunks of 9.77 kiB .* below 1 MB"),
        (report(layer("open-x", largest=2_000_000_000)), "above 1 GB"),
        (report(layer("open-x", largest=900_000_000), memory=8 << 30), "1.00 GiB of memory"),
        (
            report(layer("rechunk-merge-x", reasons={}, received=[[SOUTH, NORTH, 5_000_000]])),
            "moves 4.77 MiB between pools",
        ),
        (
            report(
                layer("open-x"),
                layer("sub", reasons={}, inputs=["open-x"], received=[[NORTH, SOUTH, 99_000_000]]),
            ),
            "sub needs 94.41 MiB of open-x as it was read",
        ),
    ],
)
def test_advice_has_numbers(given: dict[str, Any], words: str) -> None:
    import re

    assert any(re.search(words, text) for text in advise(given)), advise(given)


def test_good_chunks_need_no_advice() -> None:
    assert advise(report(layer("open-x", bytes_out=10**10, largest=10**8))) == []


def test_chunks_that_cut_across_the_files_are_told(tmp_path: Path) -> None:
    values = xr.Dataset({"t": (("x", "y"), np.ones((40, 40)))})
    values.to_netcdf(tmp_path / "t.nc", encoding={"t": {"chunksizes": (10, 40)}})
    aligned = xr.open_dataset(tmp_path / "t.nc", chunks={"x": 20})
    assert misaligned([aligned]) == []
    with pytest.warns(UserWarning, match="separate the stored chunks"):
        cutting = xr.open_dataset(tmp_path / "t.nc", chunks={"x": 15})
    (advice,) = misaligned([cutting, 3])
    assert "chunks of 15 along 'x' cut across the file's of 10" in advice


@pooled(north=(1,))
async def test_with_one_pool_it_is_explained_too(c: Any, s: Any, a: Any) -> None:
    with fed.pool(NORTH):
        source = da.ones((10, 10), chunks=5)
    expression = dask_private.pickled(collections_to_expr([source.sum()]))
    report = await s.handlers["fed_explain"](expression=expression)
    pools = [layer["pools"] for layer in report["layers"]]
    assert {NORTH: 4} in pools
    assert {name for each in pools for name in each} <= {NORTH, "any"}
    assert report["crossing"] == []
    assert await c.compute(source.sum()) == 100
