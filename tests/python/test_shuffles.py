"""P2P rechunks and shuffles of pinned data: they end, they are right, and pinned ones stay home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest

import fed
from tests.python import workloads
from tests.python.federations import POOLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

NORTH, SOUTH = POOLS
PATIENCE = 60.0
"""Seconds after which a shuffle is taken to hang."""


@pytest.fixture(autouse=True)
def peer_to_peer() -> Iterator[None]:
    with dask.config.set({"array.rechunk.method": "p2p", "dataframe.shuffle.method": "p2p"}):
        yield


def array(pool: str, factor: float) -> da.Array:
    with fed.pool(pool):
        values = np.arange(1600.0).reshape(40, 40) * factor
        return da.from_array(values, chunks=(40, 4))


def frame(pool: str) -> Any:
    with fed.pool(pool):
        return dd.from_pandas(pd.DataFrame({"k": range(40), pool: range(40)}), npartitions=4)


def compute(client: Client, lazy: Any) -> Any:
    return client.compute(lazy).result(timeout=PATIENCE)


def test_a_rechunk_inside_a_pool_stays_there(client: Client) -> None:
    before = fed.stats()["tasks_per_pool"]
    with fed.pool(SOUTH):
        lazy = array(SOUTH, 1.0).rechunk((4, 40)).map_blocks(workloads.same_block)
    total = compute(client, lazy.persist())
    np.testing.assert_array_equal(total, np.arange(1600.0).reshape(40, 40))
    after = fed.stats()["tasks_per_pool"]
    assert after[SOUTH] > before.get(SOUTH, 0) + 20
    assert after.get(NORTH, 0) - before.get(NORTH, 0) <= 1  # putting the result together


def test_a_rechunk_of_two_pools_ends(client: Client) -> None:
    lazy = (array(NORTH, 1.0) + array(SOUTH, 2.0)).rechunk((4, 40))
    np.testing.assert_array_equal(compute(client, lazy), np.arange(1600.0).reshape(40, 40) * 3.0)


def test_a_merge_of_two_pools_ends(client: Client) -> None:
    merged = compute(client, frame(NORTH).merge(frame(SOUTH), on="k"))
    assert sorted(merged["k"]) == list(range(40))
    assert (merged[NORTH] == merged[SOUTH]).all()


def test_a_rechunk_cannot_be_pinned_afterwards(client: Client) -> None:
    with pytest.raises(fed.FedError, match=r"with fed\.pool\('north'\)"):
        fed.pin_collection(da.ones((40, 40), chunks=(40, 4)).rechunk((4, 40)), NORTH)
