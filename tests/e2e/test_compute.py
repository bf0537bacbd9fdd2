"""Computing on a federation: the client sees no data, and gets what plain xarray computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

import fed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.notebook import Notebook
    from tests.e2e.world import World

ECMWF, EUMETSAT = "/data/ecmwf", "/data/eumetsat"


def plain(data: Path, site: str) -> xr.DataArray:
    with xr.open_dataset(data / site / "t.nc") as dataset:
        return dataset["t"].load()


def same(computed: xr.DataArray, expected: xr.DataArray) -> None:
    xr.testing.assert_allclose(computed, expected, rtol=1e-5, atol=1e-3)


def has_run_at_home(before: dict, after: dict) -> None:
    """Assert that both sites worked in between, and nothing was read or stolen from afar."""
    for site in ("ecmwf", "eumetsat"):
        assert after["tasks_per_site"][site] > before["tasks_per_site"].get(site, 0)
    assert after["foreign_reads"] == 0
    assert after["cross_pool_steals"] == 0


def test_the_client_sees_no_data(federation: World) -> None:
    for host, tree in (("operator", ECMWF), ("ecmwf", EUMETSAT), ("eumetsat", ECMWF)):
        assert not federation.lab[host].path(tree).exists()
    assert federation.lab["ecmwf"].path(ECMWF).exists()


def test_netcdf_by_the_catalog(notebook: Notebook, data: Path) -> None:
    before = notebook(fed.stats)

    def difference() -> xr.DataArray:
        predictions = fed.open_dataset(f"{ECMWF}/t.nc")["t"]
        observations = fed.open_dataset(f"{EUMETSAT}/t.nc")["t"].isel(realization=0)
        return (predictions.mean("realization") - observations).compute()

    observations = plain(data, "eumetsat").isel(realization=0)
    same(notebook(difference), plain(data, "ecmwf").mean("realization") - observations)
    has_run_at_home(before, notebook(fed.stats))


def test_netcdf_by_pool(notebook: Notebook, data: Path) -> None:
    def minimum() -> xr.DataArray:
        return fed.open_dataset(f"{ECMWF}/t.nc", pool="ecmwf", chunks={})["t"].min().compute()

    same(notebook(minimum), plain(data, "ecmwf").min())


def test_zarr(notebook: Notebook, data: Path) -> None:
    before = notebook(fed.stats)

    def product() -> xr.DataArray:
        stores = [fed.open_zarr(f"{root}/t.zarr", consolidated=False) for root in (ECMWF, EUMETSAT)]
        return (stores[0]["t"] * stores[1]["t"]).mean("latitude").compute()

    same(notebook(product), (plain(data, "ecmwf") * plain(data, "eumetsat")).mean("latitude"))
    has_run_at_home(before, notebook(fed.stats))


def test_several_files(notebook: Notebook, data: Path) -> None:
    def spread() -> xr.DataArray:
        paths = [f"{EUMETSAT}/part-{part}.nc" for part in (0, 1)]
        return fed.open_mfdataset(paths)["t"].std("realization").compute()

    same(notebook(spread), plain(data, "eumetsat").std("realization"))


def test_delayed(notebook: Notebook) -> None:
    def total() -> float:
        import dask

        def blocks() -> list:
            return [dask.delayed(np.load)(f"{ECMWF}/block-{block}.npy") for block in range(6)]

        loaded = fed.load(blocks, pool="ecmwf")
        return dask.delayed(sum)([dask.delayed(np.max)(block) for block in loaded]).compute()

    assert notebook(total) == sum(100.0 + block for block in range(6))


def test_arrays(notebook: Notebook) -> None:
    def means() -> tuple:
        import dask
        import dask.array as da

        def stacked(root: str) -> da.Array:
            blocks = [
                da.from_delayed(dask.delayed(np.load)(f"{root}/block-{block}.npy"), (20, 20), float)
                for block in range(6)
            ]
            return da.stack(blocks)

        here = fed.load(stacked, ECMWF)
        there = fed.load(stacked, EUMETSAT)
        return dask.compute(here.mean(), (there - here).max())

    assert notebook(means) == (102.5, 100.0)


def test_futures(notebook: Notebook) -> None:
    def pools() -> list[str]:
        from distributed import get_client

        client = get_client()
        futures = [
            client.submit(_pool_here, resources={f"pool-{pool}": 0}, pure=False)
            for pool in ("ecmwf", "eumetsat")
        ]
        return client.gather(futures)

    assert notebook(pools) == ["ecmwf", "eumetsat"]


def _pool_here() -> str:
    import os

    return os.environ["FED_POOL"]


def test_a_pool_for_what_the_client_sees(notebook: Notebook, data: Path) -> None:
    def mean() -> tuple:
        before = fed.stats()["tasks_per_pool"]
        with fed.pool("eumetsat"):
            pinned = xr.open_dataset("/data/shared/both.nc", chunks={})
        computed = pinned.mean().compute()
        after = fed.stats()["tasks_per_pool"]
        return computed, {pool: after[pool] - before.get(pool, 0) for pool in after}

    computed, tasks = notebook(mean)
    with xr.open_dataset(data / "shared" / "both.nc") as dataset:
        xr.testing.assert_allclose(computed, dataset.mean(), rtol=1e-5)
    assert tasks["eumetsat"] > 0


def test_a_pool_gives_a_hint_about_what_the_client_cannot_see(notebook: Notebook) -> None:
    def wrong() -> None:
        with fed.pool("ecmwf"):
            xr.open_dataset(f"{ECMWF}/t.nc", chunks={})

    with pytest.raises(FileNotFoundError) as caught:
        notebook(wrong)
    assert any("fed.load" in note and "'ecmwf'" in note for note in caught.value.__notes__)


def test_data_do_not_leave_a_site(notebook: Notebook) -> None:
    def eager() -> None:
        fed.open_dataset(f"{ECMWF}/t.nc", chunks=None)

    with pytest.raises(fed.NotLazyError, match=r"chunks=\{\}"):
        notebook(eager)


def test_an_unknown_path_lists_the_roots(notebook: Notebook) -> None:
    with pytest.raises(fed.UnknownPathError) as caught:
        notebook(fed.open_dataset, "/archive/t.nc")
    assert "/data/ecmwf (ecmwf)" in str(caught.value)
    assert "/data/eumetsat (eumetsat)" in str(caught.value)


def test_a_path_that_two_sites_hold_names_both(notebook: Notebook, data: Path) -> None:
    with pytest.raises(fed.AmbiguousPathError) as caught:
        notebook(fed.open_dataset, "/data/shared/both.nc")
    assert caught.value.pools == ("ecmwf", "eumetsat")

    def said() -> xr.Dataset:
        return fed.open_dataset("/data/shared/both.nc", pool="eumetsat").max().compute()

    with xr.open_dataset(data / "shared" / "both.nc") as dataset:
        xr.testing.assert_allclose(notebook(said), dataset.max())


def test_a_file_that_is_missing_at_the_site_says_where(notebook: Notebook) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        notebook(fed.open_dataset, f"{ECMWF}/none.nc")
    assert any("pool 'ecmwf' at site 'ecmwf'" in note for note in caught.value.__notes__)


def test_an_unknown_pool_is_refused(notebook: Notebook) -> None:
    def misspelt() -> None:
        fed.open_dataset(f"{ECMWF}/t.nc", pool="ecmfw")

    with pytest.raises(fed.UnknownPoolError, match="Did you mean 'ecmwf'"):
        notebook(misspelt)


def test_a_task_of_two_pools_is_refused(notebook: Notebook) -> None:
    def claimed_twice() -> None:
        import dask

        with fed.pool("ecmwf"), dask.annotate(resources={"pool-eumetsat": 0}):
            dask.delayed(sum)([1, 2]).compute()

    with pytest.raises(fed.PoolConflictError, match="'ecmwf' and 'eumetsat'"):
        notebook(claimed_twice)


def test_propagate_pools_is_accepted(notebook: Notebook, data: Path) -> None:
    def as_in_2022() -> xr.DataArray:
        with fed.propagate_pools():
            return fed.open_dataset(f"{ECMWF}/t.nc")["t"].max().compute()

    same(notebook(as_in_2022), plain(data, "ecmwf").max())
