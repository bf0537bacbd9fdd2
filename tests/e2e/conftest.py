"""Fixtures: data, worlds of three hosts, and a federation that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e import data as data_of_sites
from tests.e2e import notebook as notebooks
from tests.e2e import world as worlds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.notebook import Notebook
    from tests.e2e.world import World


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the time that two cores need for several Python processes."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of each site."""
    root = tmp_path_factory.mktemp("data")
    data_of_sites.write(root)
    return root


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[World]:
    """A world with the federation `fed` of two workers at each site."""
    with worlds.running(tmp_path_factory.mktemp("world"), data, more_hosts=["stranger"]) as world:
        world.up()
        yield world


@pytest.fixture(scope="module")
def notebook(federation: World, request: pytest.FixtureRequest) -> Notebook:
    """A Python session on the operator's host that is connected to the federation."""
    notebooks.register(request.module)
    notebook = federation.notebook()
    notebook.connect()
    return notebook


@pytest.fixture
def world(tmp_path: Path, data: Path) -> Iterator[World]:
    """A world of one's own, in which nothing is up."""
    with worlds.running(tmp_path, data) as world:
        yield world
