"""Pinned reads of parquet files: Dask's optimisations still apply to them, and they stay pinned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed.protocol import pickle

import fed
from fed.catalogs import catalog
from fed.context import pinning
from fed.pins import Pinned, find_pools
from tests.python import reads, reads_of_workers
from tests.python.federations import POOLS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client

NORTH, SOUTH = POOLS
ROWS = 100_000
PARTS = 4
FILESYSTEMS = ("fsspec", "arrow")


def frame(seed: int) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    wide = {f"w{number}": generator.random(ROWS) for number in range(10)}
    keys = np.arange(ROWS)
    generator.shuffle(keys)
    return pd.DataFrame({"k": keys, "v": keys % 7 + seed, **wide})


def part_of(table: pd.DataFrame, part: int) -> pd.DataFrame:
    return table.iloc[part * ROWS // PARTS : (part + 1) * ROWS // PARTS]


@pytest.fixture(scope="module")
def tables(data: Path) -> Path:
    """Write a table of several files in each pool."""
    for seed, pool in enumerate(POOLS):
        folder = data / pool / "table"
        folder.mkdir(exist_ok=True)
        for part in range(PARTS):
            part_of(frame(seed), part).to_parquet(folder / f"part-{part}.parquet", index=False)
    return data


@pytest.fixture(autouse=True)
def roots(data: Path) -> Iterator[None]:
    """Register the folders of the pools, as a site's data roots would be."""
    catalog.register(f"{data}/{{pool}}/")
    yield
    catalog.clear()


def opened(tables: Path, pool: str, filesystem: str = "fsspec") -> Any:
    return fed.load(dd.read_parquet, str(tables / pool / "table"), filesystem=filesystem)


def read_by_workers(client: Client, collection: Any) -> int:
    before = sum(client.run(reads.bytes_read).values())
    collection.compute()
    return sum(client.run(reads.bytes_read).values()) - before


def size(tables: Path) -> int:
    return sum(file.stat().st_size for file in (tables / NORTH / "table").iterdir())


def check_reads(client: Client, filesystem: str) -> None:
    counts = reads_of_workers.take(client)
    # Arrow opens files where Python's audit hook does not see it.
    assert counts["reads"] > 0 or filesystem == "arrow"
    assert counts["foreign"] == fed.stats()["foreign_reads"] == 0


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_only_the_columns_that_are_needed_are_read(
    filesystem: str, client: Client, tables: Path
) -> None:
    table = opened(tables, NORTH, filesystem)
    assert len(pickle.dumps(table)) < 100_000
    table.w9.sum().compute()  # imports what it needs
    reads_of_workers.take(client)
    assert read_by_workers(client, table.w0.sum() + table.w1.sum()) < size(tables) / 2
    assert read_by_workers(client, table.sum()) > size(tables) * 0.9
    check_reads(client, filesystem)


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_values_are_right_and_reads_at_home(filesystem: str, client: Client, tables: Path) -> None:
    north, south = (opened(tables, pool, filesystem) for pool in POOLS)
    plain = [frame(seed) for seed in range(len(POOLS))]
    reads_of_workers.take(client)
    merged = north[["k", "v"]].merge(south[["k", "v"]], on="k", suffixes=("", "_s"))
    expected = plain[0][["k", "v"]].merge(plain[1][["k", "v"]], on="k", suffixes=("", "_s"))
    assert (merged.v * merged.v_s).sum().compute() == (expected.v * expected.v_s).sum()
    grouped = north.groupby("v").w0.mean().compute()
    pd.testing.assert_series_equal(grouped.sort_index(), plain[0].groupby("v").w0.mean())
    indexed = south.set_index("k").w1.compute()
    pd.testing.assert_series_equal(indexed, plain[1].set_index("k").w1.sort_index())
    both = (north.w0 + south.w0).sum().compute()
    assert both == pytest.approx((plain[0].w0 + plain[1].w0).sum())
    filtered = north[north.v > 3][["k", "w2"]].w2.sum().compute()
    assert filtered == pytest.approx(plain[0][plain[0].v > 3].w2.sum())
    assert len(north) == ROWS
    if filesystem == "fsspec":  # Arrow lists files in no order
        pd.testing.assert_frame_equal(south.head(5), plain[1].head(5))
        second = north.partitions[1].k.compute()
        pd.testing.assert_series_equal(second, part_of(plain[0], 1).k, check_index=False)
    check_reads(client, filesystem)


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_nobody_but_the_site_needs_the_files(filesystem: str, client: Client, tables: Path) -> None:
    table = opened(tables, NORTH, filesystem)
    folder = tables / NORTH / "table"
    away = folder.rename(folder.with_name("away"))
    try:  # as on the operator's host, whose client and scheduler pickle, optimise and lower it
        again = pickle.loads(pickle.dumps(table))
        for wanted in (
            again.w0.sum(),
            again[again.k > 5].v,
            again.shape[0],
            again.head(compute=False),
        ):
            lowered = pickle.loads(pickle.dumps(wanted.optimize()))
            assert {NORTH} in [find_pools(node) for node in dict(lowered.dask).values()]
    finally:
        away.rename(folder)
    assert again.shape[0].compute() == ROWS


def test_filters_reach_the_read(tables: Path) -> None:
    with pinning(NORTH):
        table = dd.read_parquet(str(tables / NORTH / "table"), filesystem="arrow")
    few = table[table.k < 0].optimize(fuse=False)
    (read,) = [part for part in few.expr.walk() if "pinned" in type(part).__name__.lower()]
    assert read.operand("_expr").filters is not None


def test_every_task_that_reads_is_pinned_and_knows_its_size(tables: Path) -> None:
    with pinning(NORTH):
        table = dd.read_parquet(str(tables / NORTH / "table"))
    assert table.optimize()._name != dd.read_parquet(str(tables / NORTH / "table"))._name
    for collection in (table, table[["k", "w0"]], table.w0.sum(), table.partitions[2:]):
        for graph in (dict(collection.dask), dict(collection.optimize().dask)):
            nodes = [node for node in graph.values() if getattr(node, "data_producer", False)]
            assert nodes
            assert all(find_pools(node) == {NORTH} for node in nodes)
    narrow = dict(table[["k", "w0"]].optimize().dask)
    sizes = [node.func.nbytes for node in narrow.values()
             if isinstance(getattr(node, "func", None), Pinned)]  # fmt: skip
    assert sum(sizes) == ROWS * 16
    again = pickle.loads(pickle.dumps(table))
    assert again._name == table._name
