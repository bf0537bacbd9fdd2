"""`fed.pool`: what it pins, what it leaves alone, and that it is safe in threads and coroutines."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import pandas as pd
import pytest
from dask.tokenize import tokenize

import fed
from fed.names import ANNOTATION
from fed.pins import find_pools
from tests.python.federations import PACKAGE
from tests.python.test_graphs import nodes_of


def pools_of(obj: Any) -> set[str]:
    return {pool for node in nodes_of(obj).values() for pool in find_pools(node)}


def test_what_is_built_inside_is_pinned_and_what_is_built_outside_is_not() -> None:
    with fed.pool("north"):
        inside = da.ones(4, chunks=2)
    assert pools_of(inside) == {"north"}
    assert pools_of(da.ones(4, chunks=2)) == set()
    outer = inside + 1
    assert len(nodes_of(outer)) == 4
    assert sum(1 for node in nodes_of(outer).values() if find_pools(node)) == 2


def test_the_pool_is_part_of_every_token_and_only_inside() -> None:
    plain = tokenize("x")
    with fed.pool("north"):
        north = tokenize("x")
        with fed.pool("south"):
            south = tokenize("x")
        with fed.pool(None):
            lifted = tokenize("x")
        assert tokenize("x") == north
    assert len({plain, north, south}) == 3
    assert lifted == plain == tokenize("x")
    assert len(north) == len(plain)


def test_blocks_nest_and_none_lifts_a_pin() -> None:
    with fed.pool("north"):
        with fed.pool("south"):
            assert fed.current_pool() == "south"
            south = da.ones(2)
        with fed.pool(None):
            assert fed.current_pool() is None
            lifted = da.ones(2)
        assert fed.current_pool() == "north"
    assert fed.current_pool() is None
    assert pools_of(south) == {"south"}
    assert pools_of(lifted) == set()
    assert dask.get_annotations() == {}


def test_other_annotations_are_kept() -> None:
    with dask.annotate(resources={"GPU": 1}, priority=3), fed.pool("north"):
        assert dask.get_annotations() == {
            "priority": 3,
            "resources": {"GPU": 1, "pool-north": 0},
            ANNOTATION: "north",
        }
    with dask.annotate(resources=lambda _key: {"GPU": 2}), fed.pool("north"):
        assert dask.get_annotations()["resources"]("key") == {"GPU": 2, "pool-north": 0}


def test_annotating_inside_does_not_lose_the_pool() -> None:
    with fed.pool("north"), dask.annotate(resources={"GPU": 1}):
        assert pools_of(da.ones(2)) == {"north"}


def test_the_block_ends_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), fed.pool("north"):
        raise ZeroDivisionError
    assert fed.current_pool() is None
    assert dask.get_annotations() == {}


def test_a_file_that_the_client_cannot_see_gets_a_hint() -> None:
    with pytest.raises(FileNotFoundError) as caught, fed.pool("north"):
        Path("/nowhere/x.nc").read_bytes()
    (note,) = caught.value.__notes__
    assert "fed.load(opener, path, pool='north')" in note
    with pytest.raises(FileNotFoundError) as plain, fed.pool(None):
        Path("/nowhere/x.nc").read_bytes()
    assert not hasattr(plain.value, "__notes__")


@pytest.mark.parametrize("name", ["North", "", "1st", "a_b", "x" * 32, 3])
def test_impossible_names_are_refused(name: Any) -> None:
    with pytest.raises(fed.UnknownPoolError, match="lower-case"), fed.pool(name):
        pytest.fail("the block must not be entered")


def test_threads_have_pools_of_their_own() -> None:
    barrier = threading.Barrier(2, timeout=30)
    found: dict[str, tuple[str | None, set[str]]] = {}

    def build(pool: str) -> None:
        with fed.pool(pool):
            barrier.wait()
            array = da.ones(4, chunks=2)
            barrier.wait()
            found[pool] = fed.current_pool(), pools_of(array)

    threads = [threading.Thread(target=build, args=(pool,)) for pool in ("north", "south")]
    for thread in threads:
        thread.start()
    assert fed.current_pool() is None
    assert pools_of(da.ones(4, chunks=2)) == set()
    for thread in threads:
        thread.join(30)
    assert found == {"north": ("north", {"north"}), "south": ("south", {"south"})}


def test_coroutines_have_pools_of_their_own() -> None:
    async def build(pool: str, mine: asyncio.Event, other: asyncio.Event) -> set[str]:
        with fed.pool(pool):
            mine.set()
            await other.wait()
            assert fed.current_pool() == pool
            return pools_of(da.ones(4, chunks=2))

    async def both() -> tuple[set[str], set[str]]:
        first, second = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(build("north", first, second), build("south", second, first))

    assert tuple(asyncio.run(both())) == ({"north"}, {"south"})


def test_a_dataframes_source_is_pinned_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    with fed.pool("north"):
        frame = dd.from_pandas(pd.DataFrame({"a": range(4)}), npartitions=2)
    assert pools_of(frame["a"].sum()) == {"north"}
    assert not [warning for warning in recwarn if "annotations" in str(warning.message)]


def test_notebooks_of_2022_run() -> None:
    with fed.pool("north"):
        array = da.ones(4, chunks=2)
    with fed.propagate_pools():
        assert pools_of(array) == {"north"}


def test_importing_fed_imports_nothing_heavy() -> None:
    """Workers and the scheduler have the whole package on their path."""
    code = (
        "import sys, fed; dir(fed); import fed.names, fed.errors;"
        "heavy = {'numpy', 'dask', 'distributed', 'xarray', 'pandas'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(PACKAGE)}, check=True)


def test_every_public_name_can_be_imported() -> None:
    for name in fed.__all__:
        assert getattr(fed, name) is not None
        assert name in dir(fed)
    assert {name for name in dir(fed) if not name.startswith("__")} == set(fed.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fed.nonsense
