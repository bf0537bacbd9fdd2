"""Workers read a store of their site's own network, which agent.toml names, and reach no more."""

from __future__ import annotations

import os
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import xarray as xr

import fed
from tests.e2e import data as data_of_sites
from tests.e2e import notebook as notebooks
from tests.e2e import programs
from tests.e2e import world as worlds
from tests.e2e.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.lab import Host
    from tests.e2e.notebook import Notebook
    from tests.e2e.world import World

STORE = "http://store:8080"
OPEN, OTHER, CLOSED = 8080, 8081, 8082
"""Ports of the store: one that is named, one that is not, and one where nobody listens."""


@contextmanager
def few_files() -> Iterator[None]:
    """Let what is started meanwhile open few files, unless it raises its limit itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = hard - 1 if 0 < hard <= 1024 else 1024
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def served(host: Host, folder: Path, port: int, log: Path) -> Iterator[None]:
    """Serve a folder over HTTP from a host; ``log`` tells who asked for what."""
    server = [str(programs.python()), "-u", "-m", "http.server", str(port), "--bind", "::"]
    with log.open("w") as lines:
        process = host.popen([*server, "--directory", str(folder)], stdout=lines, stderr=lines)
    try:
        until(lambda: "Serving HTTP" in log.read_text())
        yield
    finally:
        process.kill()
        process.wait(timeout=PATIENCE)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the store holds, and its servers' logs."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "served").mkdir()
    dataset = data_of_sites.temperatures(4).chunk(data_of_sites.CHUNKS)
    dataset.to_zarr(folder / "served" / "t.zarr", consolidated=True)
    return folder


@pytest.fixture(scope="module")
def behind_store(
    tmp_path_factory: pytest.TempPathFactory, data: Path, store: Path
) -> Iterator[World]:
    """A federation in which one site's data lies behind a store of its network."""
    ecmwf = {
        "data": ["/data/ecmwf", f"{STORE}/"],
        "reach": [f"store:{OPEN}", f"store:{CLOSED}", "no-such-host:443"],
    }
    folder = tmp_path_factory.mktemp("world")
    with (
        few_files(),
        worlds.running(folder, data, more_hosts=["store"], changes={"ecmwf": ecmwf}) as world,
    ):
        host = world.lab["store"]
        with (
            served(host, store / "served", OPEN, store / "open.log"),
            served(host, store / "served", OTHER, store / "other.log"),
        ):
            world.up(workers=1)
            yield world


@pytest.fixture(scope="module")
def book(behind_store: World, request: pytest.FixtureRequest) -> Notebook:
    """A session that is connected."""
    notebooks.register(request.module)
    book = behind_store.notebook()
    book.connect()
    return book


def _attempts(pool: str, ways: list[tuple[str, int]]) -> list[str]:
    """Return how a worker's attempts to be sent a word end."""
    from distributed import get_client

    client = get_client()
    resources = {f"pool-{pool}": 0}
    return client.submit(_attempt_all, ways, resources=resources, pure=False).result(90)


def _attempt_all(ways: list[tuple[str, int]]) -> list[str]:
    return [_attempt(*way) for way in ways]


def _attempt(host: str, port: int) -> str:
    import socket

    try:
        with socket.create_connection((host, port), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return "answered" if connection.recv(1) else "ended"
    except socket.gaierror:
        return "unknown name"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else type(error).__name__


def test_zarr_behind_a_store(book: Notebook, behind_store: World, store: Path) -> None:
    with xr.open_zarr(store / "served" / "t.zarr") as plain:
        expected = float(plain["t"].mean())

    def by_catalog() -> float:
        url = f"{STORE}/t.zarr"
        return float(fed.open_dataset(url, engine="zarr", chunks={})["t"].mean().compute())

    def by_pool() -> float:
        dataset = fed.load(xr.open_zarr, f"{STORE}/t.zarr", pool="ecmwf")
        return float(dataset["t"].mean().compute())

    assert book(by_catalog) == pytest.approx(expected, rel=1e-5)
    assert book(by_pool) == pytest.approx(expected, rel=1e-5)
    assert book(fed.stats)["foreign_reads"] == 0
    asked = [line for line in (store / "open.log").read_text().splitlines() if '"GET' in line]
    assert len(asked) > 10
    site = behind_store.lab["ecmwf"]
    assert {line.split()[0].removeprefix("::ffff:") for line in asked} <= {site.addr4, site.addr6}


def test_no_other_port_and_no_other_host(book: Notebook, behind_store: World, store: Path) -> None:
    lab = behind_store.lab
    here = lab["ecmwf"]
    ways: dict[tuple[str, int], Any] = {
        ("store", OPEN): "answered",
        ("store", OTHER): "Connection refused",
        ("localhost", OPEN): "Connection refused",
        ("eumetsat", 4788): "unknown name",
    }
    for address in (lab["store"].addr4, lab["store"].addr6, here.addr4, here.addr6):
        ways[address, OPEN] = "Network is unreachable"
    ended = book(_attempts, "ecmwf", list(ways))
    assert dict(zip(ways, ended, strict=True)) == ways
    # The other site's configuration names no store.
    ways = {("store", OPEN): "unknown name", ("127.77.0.1", OPEN): "Connection refused"}
    ended = book(_attempts, "eumetsat", list(ways))
    assert dict(zip(ways, ended, strict=True)) == ways
    assert '"GET' not in (store / "other.log").read_text()


def test_a_store_that_is_down_is_told(book: Notebook, behind_store: World) -> None:
    ways = [("store", CLOSED), ("no-such-host", 443)]
    assert book(_attempts, "ecmwf", ways) == ["Connection reset by peer"] * 2
    log = behind_store.fed("logs", "--only", "node", "--tail", "0").stdout.splitlines()
    (closed,) = (line for line in log if "WARN" in line and f"store:{CLOSED}" in line)
    assert "`reach`" in closed
    assert "Connection refused" in closed
    (unknown,) = (line for line in log if "WARN" in line and "no-such-host:443" in line)
    assert "`reach`" in unknown


@pytest.mark.parametrize("pattern", ["agent run", "fed node", "dask_worker"])
def test_as_many_files_may_be_open_as_the_host_allows(behind_store: World, pattern: str) -> None:
    """Agent, both halves of the node, and workers: each connection to a store takes two."""
    pids = behind_store.pids("ecmwf", pattern)
    assert pids
    for pid in pids:
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (files,) = (line.split() for line in limits if line.startswith("Max open files"))
        soft, hard = files[3:5]
        assert soft == hard


def test_a_wrong_entry_is_refused(behind_store: World) -> None:
    site = behind_store.sites["ecmwf"]
    file = site.folder / "wrong.toml"
    text = (site.folder / "agent.toml").read_text()
    file.write_text(text.replace(f'"store:{CLOSED}"', '"https://store/bucket"'))
    line = 1 + text[: text.index("reach =")].count("\n")
    done = site.host.run(
        [behind_store.paths.fed, "agent", "run", "--config", str(file)],
        env=programs.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode != 0
    wrong = f'{file}:{line}: reach: "https://store/bucket" is a URL, not host:port; write'
    assert f'{wrong} "store:443"' in done.stderr
