"""Where tasks run: the same table of computations with fed's scheduler and with stock Dask.

Every worker can read everything, so that the zeros of fed could be otherwise: with stock Dask
they are.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import dask
import numpy as np
import pytest
from distributed import wait

import fed
from fed.counters import install_counters, read_counters
from tests.python import reads_of_workers
from tests.python.expressions import NORTH, SOUTH, TABLE, THREE, Plain, Row, Run
from tests.python.workloads import provoke_steals

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from distributed import Client

    from tests.python.federations import Cluster


def annotated(pool: str) -> AbstractContextManager[None]:
    """Pin as one did in 2022."""
    block: AbstractContextManager[None] = dask.annotate(resources={f"pool-{pool}": 1})
    return block


LOST_BEFORE_SUBMISSION = {
    "array stale",  # keys do not know of annotations: refused, as they ran elsewhere
    "array optimised first",
    "array to_delayed",
    *(name for name in TABLE if name.startswith(("bag", "dataframe"))),
}
"""Rows in which the client itself drops annotations, so that only a marker is left."""


def check_row(row: Row, run: Run) -> None:
    before = fed.stats()
    result = row.compute(run)
    np.testing.assert_allclose(result, row.expected(Plain(run.data)), rtol=1e-5, atol=1e-5)
    counts = reads_of_workers.take(run.client)
    assert counts["reads"] > 0
    assert counts["foreign"] == 0
    assert fed.stats()["foreign_reads"] == before["foreign_reads"]


def rows_read_abroad(table: dict[str, Row], client: Client, data: Path) -> list[str]:
    """Run the rows that stock Dask gets wrong; return those of which it read something abroad."""
    found = []
    for name, row in table.items():
        if row.stock_fails:
            row.compute(Run(client, data, annotated))
            if reads_of_workers.take(client)["foreign"]:
                found.append(name)
    return found


@pytest.mark.parametrize("name", TABLE)
def test_fed_reads_each_source_in_its_own_pool(name: str, client: Client, data: Path) -> None:
    check_row(TABLE[name], Run(client, data, fed.pool))


@pytest.mark.parametrize("name", sorted(TABLE.keys() - LOST_BEFORE_SUBMISSION))
def test_fed_obeys_plain_annotations(name: str, client: Client, data: Path) -> None:
    check_row(TABLE[name], Run(client, data, annotated))


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Dask annotations:UserWarning")
def test_stock_dask_reads_in_the_wrong_pool(stock_client: Client, data: Path) -> None:
    """Not in every row each time: where there are few tasks it may place them well by chance."""
    rows = [name for name, row in TABLE.items() if row.stock_fails]
    assert len(rows_read_abroad(TABLE, stock_client, data)) > len(rows) / 2


@pytest.mark.parametrize("name", THREE)
def test_three_pools(name: str, three_clusters: tuple[Cluster, Cluster], data: Path) -> None:
    with_fed, _ = three_clusters
    with with_fed.client() as client:
        reads_of_workers.take(client)
        check_row(THREE[name], Run(client, data, fed.pool))


@pytest.mark.filterwarnings("ignore:Dask annotations:UserWarning")
def test_stock_dask_reads_abroad_among_three_pools(
    three_clusters: tuple[Cluster, Cluster], data: Path
) -> None:
    _, stock = three_clusters
    with stock.client() as client:
        reads_of_workers.take(client)
        assert rows_read_abroad(THREE, client, data)


def test_a_blockwise_sum_of_two_pools_is_not_fused(client: Client, data: Path) -> None:
    run = Run(client, data, fed.pool)
    result = (run.blockwise(NORTH) + run.blockwise(SOUTH)).compute()
    plain = Plain(data)
    np.testing.assert_allclose(result, plain.array(NORTH) + plain.array(SOUTH))
    assert reads_of_workers.take(client)["foreign"] == 0


def test_reads_of_one_file_are_spread_over_their_pool(client: Client, data: Path) -> None:
    chunks = client.persist(fed.open_dataset(data / NORTH / "x.nc", NORTH).t)
    wait(chunks)
    workers = Counter(address for place in client.who_has(chunks).values() for address in place)
    number = chunks.data.npartitions
    assert sum(workers.values()) == number
    assert len(workers) == 2
    assert min(workers.values()) >= 2  # what each is sent at first; the queue gives out the rest


def test_fed_steals_within_pools_only(client: Client) -> None:
    before = fed.stats()
    provoke_steals(client)
    after = fed.stats()
    assert after["cross_pool_steals"] == before["cross_pool_steals"]
    assert after["tasks_per_pool"][NORTH] > before["tasks_per_pool"].get(NORTH, 0)


def test_stock_dask_steals_across_pools(stock_client: Client) -> None:
    stock_client.run_on_scheduler(install_counters)
    provoke_steals(stock_client)
    assert stock_client.run_on_scheduler(read_counters)["cross_pool_steals"] > 0


@pytest.mark.parametrize("name", ["zarr scenario", "netcdf scenario", "array sum"])
def test_without_the_extension_a_foreign_read_fails_instead(
    name: str, stock_client: Client, data: Path
) -> None:
    """A marker refuses to run in the wrong pool, whoever placed it: never a wrong answer."""
    with pytest.raises(fed.WrongPoolError, match=r"--preload fed\.scheduler"):
        TABLE[name].compute(Run(stock_client, data, fed.pool))
    assert reads_of_workers.take(stock_client)["foreign"] == 0
