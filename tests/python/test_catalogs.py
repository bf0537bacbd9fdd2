"""The catalog's rules: longest prefix by component, templates, functions, sites, and its errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fed
from fed.catalogs import Catalog, components
from fed.federation import Pool

if TYPE_CHECKING:
    from collections.abc import Iterable

SITES = (
    Pool("ecmwf", "ecmwf", data_roots=("/data/ecmwf", "/archive")),
    Pool("eumetsat", "eumetsat", data_roots=("/data/eumetsat/", "s3://eum/obs", "/archive/obs")),
)


@pytest.mark.parametrize(
    ("path", "pool"),
    [
        ("/data/ecmwf/p.nc", "ecmwf"),
        ("/data/ecmwf", "ecmwf"),
        ("/data/eumetsat/ad-hoc/*.nc", "eumetsat"),
        ("//data//ecmwf/./x/../p.nc", "ecmwf"),
        ("/data/ecmwf/../eumetsat/p.nc", "eumetsat"),
        ("file:///data/ecmwf/p.nc", "ecmwf"),
        ("file://localhost/data/ecmwf/p.nc", "ecmwf"),
        ("/archive/x.zarr", "ecmwf"),
        ("/archive/obs/x.zarr", "eumetsat"),
        ("/archive/observations", "ecmwf"),
        ("s3://eum/obs/2022.zarr", "eumetsat"),
        ("S3://eum/obs", "eumetsat"),
        ("simplecache::s3://eum/obs/2022.nc", "eumetsat"),
        ("zip://inner.nc::/data/ecmwf/x.zip", "ecmwf"),
        (Path("/data/ecmwf/p.nc"), "ecmwf"),
    ],
)
def test_data_roots_of_sites(path: str | Path, pool: str) -> None:
    assert Catalog(SITES).pool_of(path) == pool


@pytest.mark.parametrize(
    "path", ["/data/ecmwf2/p.nc", "/dat", "/", "s3://eum2/obs", "s3://eum", "gs://eum/obs/x"]
)
def test_an_unknown_path_lists_the_known_roots(path: str) -> None:
    with pytest.raises(fed.UnknownPathError) as caught:
        Catalog(SITES).pool_of(path)
    message = str(caught.value)
    for root in ("/data/ecmwf (ecmwf)", "s3://eum/obs (eumetsat)", "/archive (ecmwf)", "pool="):
        assert root in message
    assert caught.value.path == path


def test_a_relative_path_means_nothing_at_a_site() -> None:
    with pytest.raises(fed.UnknownPathError, match="neither an absolute path nor a URL"):
        Catalog(SITES).pool_of("data/ecmwf/p.nc")


def test_no_root_at_all_says_so() -> None:
    with pytest.raises(fed.UnknownPathError, match="No root is known"):
        Catalog(()).pool_of("/data/x")


def test_a_path_that_two_sites_hold_names_both() -> None:
    catalog = Catalog([Pool(name, name, data_roots=("/shared",)) for name in ("two", "one")])
    with pytest.raises(fed.AmbiguousPathError, match=r"'one' and 'two'.*pool='one'") as caught:
        catalog.pool_of("/shared/x.nc")
    assert caught.value.pools == ("one", "two")
    catalog.register("/shared/x.nc", "two")
    assert catalog.pool_of("/shared/x.nc") == "two"


def test_pools_of_one_site_share_its_roots() -> None:
    pools = [Pool("gpu", "ecmwf", data_roots=("/data",)), Pool("ecmwf", "ecmwf", 4, ("/data",))]
    assert Catalog(pools).pool_of("/data/x") == "ecmwf"
    with pytest.raises(fed.AmbiguousPathError, match="'cpu' and 'gpu'"):
        Catalog([pools[0], Pool("cpu", "ecmwf", data_roots=("/data",))]).pool_of("/data/x")


def test_what_is_registered_goes_before_sites_only_where_it_says_as_much() -> None:
    catalog = Catalog(SITES)
    catalog.register("/data/ecmwf", "mirror")
    catalog.register("/", "anywhere")
    assert catalog.pool_of("/data/ecmwf/p.nc") == "mirror"
    assert catalog.pool_of("/data/eumetsat/p.nc") == "eumetsat"
    assert catalog.pool_of("/elsewhere") == "anywhere"
    catalog.clear()
    assert catalog.pool_of("/data/ecmwf/p.nc") == "ecmwf"


def test_a_table_and_a_template() -> None:
    catalog = Catalog(())
    catalog.register({"/data/special": "one", "https://host/x": "two"})
    catalog.register("/data/{pool}/")
    catalog.register("s3://{pool}-archive/obs")
    assert catalog.pool_of("/data/special/x") == "one"
    assert catalog.pool_of("/data/three/x") == "three"
    assert catalog.pool_of("https://host/x/y") == "two"
    assert catalog.pool_of("s3://four-archive/obs/y") == "four"
    for path in ("/data", "s3://four-archive/other", "s3://-archive/obs"):
        with pytest.raises(fed.UnknownPathError):
            catalog.pool_of(path)
    with pytest.raises(fed.UnknownPoolError):
        catalog.pool_of("/data/Not_A_Pool/x")
    assert "/data/{pool}/" in catalog.roots()


def test_functions_are_asked_first_and_the_newest_before_the_older() -> None:
    catalog = Catalog(SITES)
    catalog.register(lambda path: "older" if path.endswith(".nc") else None)
    catalog.register(lambda path: "newer" if "p." in path else None)
    assert catalog.pool_of("/data/ecmwf/p.nc") == "newer"
    assert catalog.pool_of("/data/ecmwf/q.nc") == "older"
    assert catalog.pool_of("/data/ecmwf/q.zarr") == "ecmwf"
    catalog.register(lambda _path: "Not A Pool")
    with pytest.raises(fed.UnknownPoolError):
        catalog.pool_of("/data/ecmwf/q.zarr")


@pytest.mark.parametrize(
    ("source", "pool"),
    [
        ("relative", "one"),
        ("/data", None),
        ("/data/{pool}", "one"),
        ("/{pool}/{pool}", None),
        ({"/data": "one"}, "two"),
    ],
)
def test_nonsense_cannot_be_registered(source: object, pool: str | None) -> None:
    with pytest.raises(ValueError, match=r"."):
        Catalog(()).register(source, pool)  # type: ignore[arg-type]


def test_an_impossible_pool_cannot_be_registered() -> None:
    with pytest.raises(fed.UnknownPoolError):
        Catalog(()).register("/data", "Not A Pool")


NAMES = st.text("ab.", min_size=1, max_size=2).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(NAMES, max_size=4).map(tuple)


def joined(parts: Iterable[str]) -> str:
    return "/" + "/".join(parts)


@given(st.dictionaries(PATHS, st.sampled_from(["one", "two", "three"]), min_size=1), PATHS)
def test_the_longest_prefix_wins(table: dict[tuple[str, ...], str], path: tuple[str, ...]) -> None:
    catalog = Catalog(())
    catalog.register({joined(prefix): pool for prefix, pool in table.items()})
    holding = [prefix for prefix in table if path[: len(prefix)] == prefix]
    if holding:
        assert catalog.pool_of(joined(path)) == table[max(holding, key=len)]
    else:
        with pytest.raises(fed.UnknownPathError):
            catalog.pool_of(joined(path))


@given(st.dictionaries(PATHS, st.sampled_from(["one", "two"]), min_size=1), PATHS)
def test_sites_and_registrations_agree_on_what_a_prefix_is(
    table: dict[tuple[str, ...], str], path: tuple[str, ...]
) -> None:
    registered = Catalog(())
    registered.register({joined(prefix): pool for prefix, pool in table.items()})
    sites = Catalog(
        [
            Pool(
                name, name, data_roots=tuple(joined(p) for p, pool in table.items() if pool == name)
            )
            for name in ("one", "two")
        ]
    )

    def answer(catalog: Catalog) -> str | None:
        try:
            return catalog.pool_of(joined(path))
        except fed.UnknownPathError:
            return None

    assert answer(registered) == answer(sites)


@given(PATHS, PATHS)
def test_detours_change_nothing(path: tuple[str, ...], detour: tuple[str, ...]) -> None:
    there_and_back = [*path, *detour, *[".."] * len(detour)]
    assert components(joined(there_and_back)) == components(joined(path))
    assert components(joined(path) + "//") == components(joined(path))


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    parts = components(text)
    assert all(parts)
    assert ".." not in parts
