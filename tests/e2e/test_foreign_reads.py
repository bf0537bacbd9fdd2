"""Where both sites see all data, stock Dask reads and steals across them, and fed does not.

So the zeros of fed could be otherwise: the same workload, on the same hosts, shows them to be.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.e2e import notebook as notebooks
from tests.e2e import stock, workload
from tests.e2e import world as worlds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.notebook import Notebook
    from tests.e2e.world import World


@pytest.fixture(scope="module")
def open_world(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[World]:
    """A world in which every host sees the data of both sites."""
    for module in (stock, workload, sys.modules[__name__]):
        notebooks.register(module)
    with worlds.running(tmp_path_factory.mktemp("open"), data, see_all=True) as world:
        yield world


@pytest.fixture(scope="module")
def with_fed(open_world: World) -> Notebook:
    open_world.up()
    notebook = open_world.notebook()
    notebook.connect()
    notebook(_watch)
    return notebook


@pytest.fixture(scope="module")
def with_stock_dask(open_world: World) -> Notebook:
    notebook = stock.start(open_world)
    notebook(_watch)
    notebook(_count_steals)
    return notebook


def _client() -> Any:
    from distributed import get_client

    return get_client()


def _watch() -> None:
    client = _client()
    for address, worker in client.scheduler_info(n_workers=-1)["workers"].items():
        pool = worker["name"].split("-")[0]
        client.run(workload.watch_reads, pool, workers=[address])


def _count_steals() -> None:
    from fed.counters import install_counters

    _client().run_on_scheduler(install_counters)


def _reads() -> tuple[int, int]:
    counts = _client().run(workload.taken_reads).values()
    return sum(total for total, _ in counts), sum(foreign for _, foreign in counts)


def _opened_by_fed(opener: Any, path: str, pool: str) -> Any:
    import fed

    return fed.load(opener, path, pool=pool, chunks={})


def _opened_with_annotations(opener: Any, path: str, pool: str) -> Any:
    """Open as one did in 2022: Dask's own annotations say where."""
    import dask

    with dask.annotate(resources={f"pool-{pool}": 0}):
        return opener(path, chunks={})


def _read_with_fed() -> tuple[list[float], tuple[int, int]]:
    return workload.read_everything(_opened_by_fed), _reads()


def _read_with_annotations() -> tuple[list[float], tuple[int, int]]:
    return workload.read_everything(_opened_with_annotations), _reads()


def _steal() -> int:
    """Return how many tasks were stolen across pools, by what the scheduler counts."""
    from fed.counters import read_counters

    client = _client()
    before = client.run_on_scheduler(read_counters)["cross_pool_steals"]
    assert workload.provoke_steals(client) == list(range(60))
    return client.run_on_scheduler(read_counters)["cross_pool_steals"] - before


def _read_plainly(data: Path) -> list[float]:
    def opened(opener: Any, path: str, pool: str) -> Any:
        return opener(path.replace("/data", str(data)), chunks={})

    return workload.read_everything(opened)


def test_both_sites_see_everything(open_world: World) -> None:
    for host in ("operator", "ecmwf", "eumetsat"):
        for tree in ("ecmwf", "eumetsat"):
            assert open_world.lab[host].path(f"/data/{tree}/t.nc").exists()


def test_fed_reads_every_chunk_at_home(with_fed: Notebook, data: Path) -> None:
    results, (reads, foreign) = with_fed(_read_with_fed)
    np.testing.assert_allclose(results, _read_plainly(data), rtol=1e-4)
    assert reads > 0
    assert foreign == 0


@pytest.mark.filterwarnings("ignore:Dask annotations:UserWarning")
def test_stock_dask_reads_abroad(with_stock_dask: Notebook, data: Path) -> None:
    results, (reads, foreign) = with_stock_dask(_read_with_annotations)
    np.testing.assert_allclose(results, _read_plainly(data), rtol=1e-4)
    assert reads > 0
    assert foreign > 0


def test_fed_steals_within_a_site_only(with_fed: Notebook) -> None:
    assert with_fed(_steal) == 0


def test_stock_dask_steals_across_sites(with_stock_dask: Notebook) -> None:
    assert with_stock_dask(_steal) > 0
