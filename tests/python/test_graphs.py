"""Pinning a lazy object after the fact: every task marked, nothing computed, keys renamed."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import distributed
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from dask._task_spec import GraphNode, convert_legacy_graph
from dask.blockwise import Blockwise
from dask.highlevelgraph import HighLevelGraph
from distributed.protocol.pickle import dumps

import fed
from fed.graphs import pin_collection
from fed.pins import POOL_VARIABLE, Pinned, find_pools

if TYPE_CHECKING:
    from pathlib import Path


def _data(tmp_path: Path) -> xr.Dataset:
    xr.Dataset({"t": (("y", "x"), np.arange(24.0).reshape(4, 6))}).to_netcdf(tmp_path / "t.nc")
    return xr.open_dataset(tmp_path / "t.nc", chunks={"y": 2})


BUILDERS: dict[str, Any] = {
    "array": lambda _path: da.arange(20, chunks=5) + 1,
    "array of numpy": lambda _path: da.from_array(np.arange(12).reshape(3, 4), chunks=2),
    "array reduced": lambda _path: da.ones((6, 6), chunks=3).sum(axis=0),
    "array overlap": lambda _path: da.arange(20, chunks=5).map_overlap(np.sort, depth=1),
    "array rechunked": lambda _path: da.arange(20, chunks=5).rechunk(4),
    "array concatenated": lambda _path: da.concatenate([da.ones(3), da.zeros(4)])[1:5],
    "array of delayed": lambda _path: da.from_delayed(dask.delayed(np.ones)(3), (3,), "f8"),
    "array named": lambda _path: da.from_array(np.arange(4), chunks=2, name="mine"),
    "delayed": lambda _path: dask.delayed(sum)([dask.delayed(int)("3"), 4]),
    "delayed of a dict": lambda _path: dask.delayed(dict)({"a": dask.delayed(int)("3")}),
    "bag": lambda _path: db.from_sequence(range(10), npartitions=3).map(str),
    "dataframe": lambda _path: dd.from_pandas(pd.DataFrame({"a": range(10)}), npartitions=3),
    "dataframe used": lambda _path: dd.from_map(_frame, [1, 2, 3])["a"] + 1,
    "series sum": lambda _path: dd.from_map(_frame, [1, 2, 3])["a"].sum(),
    "dataset": _data,
    "data array": lambda path: _data(path).t.mean("x"),
    "low-level graph": lambda _path: dask.delayed({"a": [1, 2]}),
    "several": lambda path: [_data(path), {"b": da.ones(4, chunks=2)}],
}


def _frame(value: int) -> pd.DataFrame:
    return pd.DataFrame({"a": [value], "b": [value]})


def nodes_of(obj: Any) -> dict[Any, GraphNode]:
    parts = obj if isinstance(obj, list) else [obj]
    nodes: dict[Any, GraphNode] = {}
    for part in parts:
        if isinstance(part, dict):
            nodes |= nodes_of(list(part.values()))
        else:
            nodes |= convert_legacy_graph(dict(part.__dask_graph__()))
    return nodes


def unmarked(obj: Any) -> list[Any]:
    """Return the keys of tasks that could do something and carry no marker."""
    return [
        key
        for key, node in nodes_of(obj).items()
        if not find_pools(node)
        and type(node).__name__ not in {"Alias", "List", "Tuple", "Dict", "Set"}
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, xr.Dataset | xr.DataArray):
        return bool(one.identical(other))
    if isinstance(one, pd.DataFrame | pd.Series):
        return bool(one.equals(other))
    if isinstance(one, list | tuple):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return all(same(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


@pytest.mark.parametrize("name", BUILDERS)
def test_every_task_is_marked_and_computes_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obj = BUILDERS[name](tmp_path)
    pinned = fed.pin_collection(obj, "north")
    assert isinstance(obj, type(pinned))  # a delayed literal comes back as a plain Delayed
    assert unmarked(pinned) == []
    with pytest.raises(fed.WrongPoolError):
        dask.compute(pinned, scheduler="sync")
    monkeypatch.setenv(POOL_VARIABLE, "north")
    travelled = pickle.loads(dumps(pinned))
    assert same(
        dask.compute(travelled, scheduler="sync")[0], dask.compute(obj, scheduler="sync")[0]
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_keys_say_the_pool(name: str, tmp_path: Path) -> None:
    obj = BUILDERS[name](tmp_path)
    north = fed.pin_collection(obj, "north")
    south = fed.pin_collection(obj, "south")
    plain_keys = set(nodes_of(obj))
    assert not set(nodes_of(north)) & plain_keys
    assert not set(nodes_of(north)) & set(nodes_of(south))
    assert set(nodes_of(fed.pin_collection(obj, "north"))) == set(nodes_of(north))


@pytest.mark.parametrize("name", [name for name in BUILDERS if "dataframe" not in name])
def test_pinning_again_changes_no_key(name: str, tmp_path: Path) -> None:
    pinned = fed.pin_collection(BUILDERS[name](tmp_path), "north")
    assert set(nodes_of(fed.pin_collection(pinned, "north"))) == set(nodes_of(pinned))


def test_what_is_pinned_elsewhere_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    south = fed.pin_collection(da.ones(4, chunks=2, name="source"), "south")
    mixed = fed.pin_collection(south + 1, "north")
    pools = {key: find_pools(node) for key, node in nodes_of(mixed).items()}
    assert set(map(frozenset, pools.values())) == {frozenset({"north"}), frozenset({"south"})}
    assert set(nodes_of(south)) < set(pools)


def test_a_symbolic_layer_stays_symbolic() -> None:
    pinned = fed.pin_collection(da.ones((4000, 4000), chunks=20) + 1, "north")
    assert isinstance(pinned.dask, HighLevelGraph)
    assert all(isinstance(layer, Blockwise) for layer in pinned.dask.layers.values())
    assert not any(layer.is_materialized() for layer in pinned.dask.layers.values())
    assert len(dumps(pinned)) < 10_000


def test_results_in_memory_are_left_alone(client: Any) -> None:
    persisted = da.ones(4, chunks=2).persist()
    pinned = fed.pin_collection(persisted + 1, "north")
    assert set(persisted.__dask_keys__()) < set(nodes_of(pinned)) | {
        future.key for future in distributed.futures_of(persisted)
    }
    assert float(pinned.sum().compute()) == 8.0


def test_what_is_not_lazy_is_returned_as_it_is() -> None:
    values: dict[str, Any] = {"a": 1, "b": [np.arange(3)]}
    assert fed.pin_collection(values, "north")["b"][0] is values["b"][0]


def test_an_impossible_pool_is_refused() -> None:
    with pytest.raises(fed.UnknownPoolError, match="lower-case"):
        fed.pin_collection(da.ones(3), "Not A Pool")


@pytest.mark.parametrize("columns", [None, ["a"]])
def test_partitions_of_parquet_files_know_their_size(tmp_path: Path, columns: Any) -> None:
    table = pd.DataFrame({"a": np.arange(4000), "text": ["a text of some length"] * 4000})
    dd.from_pandas(table, npartitions=40).to_parquet(tmp_path)
    pinned = pin_collection(dd.read_parquet(tmp_path, columns=columns), "north")
    estimated = [node.func.nbytes for node in pinned.__dask_graph__().values()
                 if isinstance(getattr(node, "func", None), Pinned)]  # fmt: skip
    assert len(estimated) == 40
    for nbytes in estimated:
        real = table[columns or ["a", "text"]].memory_usage(deep=True, index=False).sum() / 40
        assert 800 <= nbytes <= 4 * real
