"""Opening at the site: lazy and pinned results, refusals on the worker, errors with their place."""

from __future__ import annotations

import asyncio
import importlib
import pickle
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import numpy as np
import pytest
import xarray as xr
from dask.delayed import Delayed
from distributed import Client

import fed
from fed.catalogs import catalog
from fed.laziness import INDEX_LIMIT, VARIABLE_LIMIT, check_lazy
from tests.python import openers, reads_of_workers, workloads
from tests.python.expressions import Plain, scenario
from tests.python.federations import POOLS
from tests.python.test_graphs import unmarked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.python.federations import Cluster

NORTH, SOUTH = POOLS


@pytest.fixture(autouse=True)
def roots(data: Path) -> Iterator[None]:
    """Register the folders of the pools, as a site's data roots would be."""
    catalog.register(f"{data}/{{pool}}/")
    yield
    catalog.clear()


@pytest.mark.parametrize("opener", ["dataset", "zarr", "mfdataset"])
def test_the_first_calculation(opener: str, client: Client, data: Path) -> None:
    def opened(pool: str) -> xr.Dataset:
        folder = data / pool
        if opener == "dataset":
            return fed.open_dataset(folder / "x.nc")
        if opener == "zarr":
            return fed.open_zarr(str(folder / "x.zarr"), consolidated=False)
        parts = [folder / "part-0.nc", folder / "part-1.nc"]
        return fed.open_mfdataset(parts, combine="nested", concat_dim="realization")

    north, south = opened(NORTH), opened(SOUTH)
    assert unmarked(north) == unmarked(south) == []
    assert len(pickle.dumps(north)) < 20_000
    reads_of_workers.take(client)
    result = scenario(north, south)
    plain = Plain(data)
    expected = scenario(plain.dataset(NORTH), plain.dataset(SOUTH))
    xr.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)
    counts = reads_of_workers.take(client)
    assert counts["reads"] > 0
    assert counts["foreign"] == 0


@pytest.mark.parametrize(
    ("opener", "kind"),
    [
        (openers.array, da.Array),
        (openers.delayed, Delayed),
        (openers.bag, db.Bag),
        (openers.frame, dd.DataFrame),
        (openers.data_array, xr.DataArray),
        (openers.tree, xr.DataTree),
        (openers.several, dict),
    ],
)
def test_any_lazy_opener_will_do(opener: Any, kind: type, client: Client) -> None:
    opened = fed.load(opener, pool=SOUTH)
    assert isinstance(opened, kind)
    parts = list(opened.values()) if isinstance(opened, dict) else [opened]
    for part in parts:
        pools = openers.pools_seen(part)
        assert pools == {SOUTH}, pools


def test_loading_and_pool_agree_on_conflicts(client: Client) -> None:
    opened = fed.load(openers.array, pool=SOUTH)
    with fed.pool(NORTH):
        moved = opened.map_blocks(workloads.add_pool_here, dtype=object)
    assert openers.pools_seen(moved) == {f"{SOUTH}>{NORTH}"}  # the chunks travel, as asked for
    with fed.pool(NORTH):
        again = fed.load(openers.array, pool=SOUTH)
    assert openers.pools_seen(again) == {SOUTH}


@pytest.mark.parametrize(
    ("opener", "found"),
    [
        (openers.eager_numpy, "numpy.ndarray"),
        (openers.eager_dataset, "without a lazy variable"),
        (openers.eager_handle, "without a lazy variable"),
        (openers.mixed_dataset, "'big' of 8,000,000 bytes"),
        (openers.chunked_numpy, "made of 8,000,000 bytes in memory"),
        (openers.chunked_dataset, "made of 8,000,000 bytes in memory"),
        (openers.frame_of_pandas, "bytes in memory"),
        (openers.mixed_list, "numpy.ndarray"),
        (openers.eager_text, "builtins.str"),
        (openers.nothing, "builtins.NoneType"),
    ],
)
def test_data_is_refused_on_the_worker(opener: Any, found: str, client: Client) -> None:
    with pytest.raises(fed.NotLazyError, match=found) as caught:
        fed.load(opener, pool=NORTH)
    assert "chunks={}" in str(caught.value)
    assert f"in pool {NORTH!r}" in caught.value.__notes__[0]


def test_a_module_that_a_site_lacks_is_named_and_its_workers_live(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def opener(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    opener = importlib.import_module("only_here").opener
    before = client.scheduler_info(n_workers=-1)["workers"].keys()
    with pytest.raises(fed.MissingModuleError) as caught:
        fed.load(opener, pool=NORTH)
    assert caught.value.module == "only_here"
    assert caught.value.pool == NORTH
    assert caught.value.worker.startswith(NORTH)
    assert client.scheduler_info(n_workers=-1)["workers"].keys() == before


def test_chunks_none_is_refused(client: Client, data: Path) -> None:
    with pytest.raises(fed.NotLazyError, match="chunks"):
        fed.open_dataset(data / NORTH / "x.nc", chunks=None)


def test_small_coordinates_and_indexes_may_travel() -> None:
    lazy = da.ones(10, chunks=5)
    small = np.zeros(VARIABLE_LIMIT // 8)
    large_index = np.arange(VARIABLE_LIMIT // 4)
    dataset = xr.Dataset(
        {"t": ("x", lazy), "crs": ((), 1), "small": ("z", small)}, coords={"y": large_index}
    )
    check_lazy(dataset, "opener")
    check_lazy(dataset.t, "opener")
    with pytest.raises(fed.NotLazyError, match="'small'"):
        check_lazy(dataset.assign(small=("z2", np.append(small, 0.0))), "opener")
    with pytest.raises(fed.NotLazyError, match="'y'"):
        check_lazy(dataset.assign_coords(y=np.arange(INDEX_LIMIT // 8 + 1)), "opener")


def test_scalars_travel_with_the_metadata(client: Client, data: Path) -> None:
    path = data / NORTH / "scalar.nc"
    field = xr.DataArray(np.ones((2, 3)), dims=("y", "x"), name="t")
    field.assign_coords(height=1.5, time=np.datetime64("2022-07-19", "ns")).to_netcdf(path)
    opened = fed.open_dataset(path)
    for each in (opened, fed.load(xr.open_dataarray, path, chunks={})):
        assert dask.is_dask_collection(each)
    path.unlink()  # a client that cannot see it
    assert float(opened.height) == 1.5
    assert opened.time == np.datetime64("2022-07-19", "ns")


def test_a_remote_error_keeps_its_type_and_says_where(client: Client, data: Path) -> None:
    missing = data / NORTH / "missing.nc"
    with pytest.raises(FileNotFoundError, match=r"missing\.nc") as caught:
        fed.open_dataset(missing)
    assert caught.value.__notes__ == [f"fed.load was running open_dataset in pool {NORTH!r}."]


def test_a_failed_open_is_not_remembered(client: Client, data: Path) -> None:
    path = data / NORTH / "late.nc"
    with pytest.raises(FileNotFoundError) as caught:
        fed.open_dataset(path)
    Plain(data).dataset(NORTH).to_netcdf(path)
    try:
        assert fed.open_dataset(path).t.shape == (8, 6, 40, 40)
    finally:
        path.unlink()
    assert caught.value is not None  # the failure is still held, and was still not used again


def test_a_changed_file_is_opened_anew(client: Client, data: Path) -> None:
    path = data / SOUTH / "changing.nc"
    try:
        xr.Dataset({"t": ("x", np.zeros(3))}).to_netcdf(path)
        first = fed.open_dataset(path)
        assert first.t.sum().compute() == 0
        path.unlink()
        xr.Dataset({"t": ("x", np.ones(4))}).to_netcdf(path)
        second = fed.open_dataset(path)
        assert second.t.sum().compute() == 4
        assert first is not second
    finally:
        path.unlink(missing_ok=True)


def test_an_unknown_pool_is_refused_with_the_nearest(client: Client) -> None:
    with pytest.raises(fed.UnknownPoolError, match="Did you mean 'south'"):
        fed.load(openers.array, pool="sout")


def test_files_of_two_pools_are_refused(client: Client, data: Path) -> None:
    paths = [data / pool / "x.nc" for pool in POOLS]
    with pytest.raises(fed.AmbiguousPathError, match=r"in 'north'.*in 'south'.*xarray\.concat"):
        fed.open_mfdataset(paths)


def test_without_a_path_the_pool_has_to_be_said(client: Client) -> None:
    with pytest.raises(fed.UnknownPathError, match="pool="):
        fed.load(openers.array)
    with pytest.raises(fed.UnknownPathError, match="neither an absolute path nor a URL"):
        fed.open_dataset("x.nc")


def test_without_a_client_one_is_told_to_connect() -> None:
    with pytest.raises(fed.NotRunningError, match=r"fed\.connect"):
        fed.load(openers.array, pool=NORTH)


def test_an_asynchronous_client_awaits_it(fed_cluster: Cluster) -> None:
    async def load() -> set[str]:
        async with Client(fed_cluster.address, asynchronous=True) as client:
            array = await fed.load(openers.array, pool=SOUTH)
            assert (await fed.stats(client))["workers_per_pool"][SOUTH] == 2
            return set(await client.compute(array))

    assert asyncio.run(load()) == {SOUTH}
