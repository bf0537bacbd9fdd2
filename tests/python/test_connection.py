"""`fed.connect`: which federation, where its files are, and what the client shows of it."""

from __future__ import annotations

import asyncio
import json
import platform
import socket
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fed
from fed import client as client_module
from fed.federation import Federation, Pool, find, state_dir
from fed.versions import check_versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.python.federations import Cluster


@contextmanager
def listening() -> Iterator[int]:
    """Accept connections on a port of this host, as a gateway would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def describe(state: Path, name: str, port: int, **changes: Any) -> Path:
    """Write what the operator writes for a federation."""
    folder = state / "federations" / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("ca.pem", "client.pem", "client.key"):
        (folder / file).write_text("PEM")
    document = {
        "name": name,
        "federation": "0f" * 16,
        "scheduler": f"tls://127.0.0.1:{port}",
        "ca": "ca.pem",
        "certificate": "client.pem",
        "key": str(folder / "client.key"),
        "dashboard": f"http://127.0.0.1:{port + 1}/status?token=secret",
        "pools": [
            {"name": "ecmwf", "site": "ecmwf", "workers": 2, "data_roots": ["/data/ecmwf"]},
            {"name": "eumetsat", "site": "eumetsat", "workers": 2, "data_roots": ["/data/eum"]},
        ],
        "versions": {"dask": "2026.8.0"},
        **changes,
    }
    source = folder / "connect.json"
    source.write_text(json.dumps(document))
    return source


def test_the_only_running_federation_is_found(tmp_path: Path) -> None:
    with listening() as port:
        describe(tmp_path, "stale", closed_port())
        source = describe(tmp_path, "mine", port)
        federation = find(state=tmp_path)
        assert find("mine", tmp_path) == federation
    assert federation.name == "mine"
    assert federation.ca == source.parent / "ca.pem"
    assert federation.key == source.parent / "client.key"
    assert federation.pools[1] == Pool("eumetsat", "eumetsat", 2, ("/data/eum",))
    assert federation.site_of("ecmwf") == "ecmwf"
    assert federation.site_of("other") is None
    assert federation.versions == {"dask": "2026.8.0"}


def test_of_several_one_has_to_be_chosen(tmp_path: Path) -> None:
    with listening() as one, listening() as two:
        describe(tmp_path, "one", one)
        describe(tmp_path, "two", two)
        with pytest.raises(fed.NotRunningError, match=r"one, two.*fed\.connect\('one'\)"):
            find(state=tmp_path)
        assert find("two", tmp_path).name == "two"


def test_none_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(fed.NotRunningError, match=r"`fed up SITE …`.*`fed status`") as caught:
        fed.connect(state=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_name_that_does_not_exist_lists_those_that_do(tmp_path: Path) -> None:
    describe(tmp_path, "mine", 1)
    with pytest.raises(fed.NotRunningError, match=r"'yours' is not running.*there are: mine"):
        fed.connect("yours", state=tmp_path)


def test_the_last_words_of_one_that_failed(tmp_path: Path) -> None:
    folder = tmp_path / "federations"
    folder.mkdir()
    (folder / "one.log").write_text("error: before\nINFO\nerror: operator: it died\nINFO\n")
    (folder / "well.log").write_text("INFO all is well\n")
    for name in ("one", None):
        with pytest.raises(fed.NotRunningError, match=r"'one' ended: operator: it died .*one.log"):
            find(name, state=tmp_path)
    with pytest.raises(fed.NotRunningError, match=r"well/connect\.json does not exist"):
        find("well", state=tmp_path)


def test_a_stale_description_says_so(tmp_path: Path) -> None:
    port = closed_port()
    describe(tmp_path, "mine", port)
    for name in ("mine", None):
        with pytest.raises(fed.NotRunningError, match=f"nothing answers at tls://127.0.0.1:{port}"):
            fed.connect(name, state=tmp_path)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda source: source.write_text("{"), "damaged"),
        (lambda source: source.write_text("[]"), "damaged"),
        (lambda source: source.write_text('{"name": "mine"}'), "damaged"),
        (lambda source: (source.parent / "ca.pem").unlink(), r"ca\.pem.*is missing"),
        (lambda source: (source.unlink(), source.mkdir()), "connect.json"),
    ],
)
def test_a_damaged_description_is_refused(damage: Any, problem: str, tmp_path: Path) -> None:
    with listening() as port:
        damage(describe(tmp_path, "mine", port))
        with pytest.raises(fed.NotRunningError, match=problem):
            fed.connect("mine", state=tmp_path)


def test_where_the_state_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FED_STATE_DIR", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_dir() == tmp_path / ".local" / "state" / "fed"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_dir() == tmp_path / "xdg" / "fed"
    monkeypatch.setenv("FED_STATE_DIR", str(tmp_path / "given"))
    assert state_dir() == tmp_path / "given"
    assert state_dir("~/argument") == tmp_path / "argument"


@pytest.fixture
def fed_client(
    tmp_path: Path, fed_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[fed.FedClient]:
    """A `FedClient` of the test cluster, which listens without TLS."""
    source = describe(
        tmp_path,
        "mine",
        1,
        scheduler=fed_cluster.address,
        pools=[
            {"name": "north", "site": "met", "workers": 2, "data_roots": ["/data/north"]},
            {"name": "south", "site": "eum", "workers": 2, "data_roots": ["/data/south"]},
        ],
    )
    monkeypatch.setattr(client_module, "Security", lambda **_files: None)
    with fed.FedClient(Federation.read(source)) as client:
        yield client


def test_the_client_shows_the_gateway(fed_client: fed.FedClient) -> None:
    assert fed_client.dashboard_link == "http://127.0.0.1:2/status?token=secret"
    assert "federation 'mine'" in repr(fed_client)
    assert fed_client.dashboard_link in repr(fed_client)
    assert fed_client.dashboard_link in fed_client._repr_html_()
    assert fed_client.submit(int, "3").result() == 3


def test_the_default_catalog_and_pool_know_the_federation(fed_client: fed.FedClient) -> None:
    assert fed.catalog.pool_of("/data/north/x.nc") == "north"
    assert fed.catalog.roots() == ("/data/north (north)", "/data/south (south)")
    with pytest.raises(fed.UnknownPoolError, match="Did you mean 'north'"), fed.pool("nort"):
        pytest.fail("the block must not be entered")
    with pytest.raises(FileNotFoundError) as caught:
        fed.load(Path.read_text, Path("/data/south/missing"))
    assert caught.value.__notes__ == [
        "fed.load was running read_text in pool 'south' at site 'eum'."
    ]


def test_a_site_that_joins_later_is_known(fed_client: fed.FedClient, tmp_path: Path) -> None:
    source = fed_client.federation.source
    document = json.loads(source.read_text())
    document["pools"].append({"name": "west", "site": "west"})
    source.write_text(json.dumps(document))
    with fed.pool("west"):
        assert fed.current_pool() == "west"
    source.unlink()
    with pytest.raises(fed.UnknownPoolError), fed.pool("east"):
        pytest.fail("the block must not be entered")


def test_a_pool_among_resources_is_part_of_the_key(fed_client: fed.FedClient) -> None:
    plain = fed_client.submit(int, "3")
    pinned = fed_client.submit(int, "3", resources={"pool-south": 1})
    assert plain.key != pinned.key
    mapped = fed_client.map(int, ["3"], resources={"pool-south": 1})
    assert mapped[0].key != fed_client.map(int, ["3"])[0].key
    assert fed_client.gather([plain, pinned, *mapped]) == [3, 3, 3]


def test_an_asynchronous_client_is_awaited(
    tmp_path: Path, fed_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(tmp_path, "mine", 1, scheduler=fed_cluster.address)
    monkeypatch.setattr(client_module, "Security", lambda **_files: None)

    async def use() -> int:
        async with fed.connect("mine", state=tmp_path, asynchronous=True) as client:
            assert client.asynchronous
            return int(await client.submit(int, "3"))

    assert asyncio.run(use()) == 3


def test_a_client_with_other_software_is_refused(tmp_path: Path) -> None:
    """Both versions are named, and what to do; a patch of Python is no other software."""
    own = ".".join(platform.python_version_tuple()[:2])
    rows = [
        {"package": "python", "operator": f"{own}.99"},
        {"package": "distributed", "operator": version("distributed")},
        {"package": "xarray", "operator": "1.0"},
    ]
    with listening() as port:
        describe(tmp_path, "same", port, versions={"rows": rows})
        check_versions(find("same", tmp_path))
        for package, there in [("distributed", "2024.1.0"), ("python", "3.7.1")]:
            others = [{"package": package, "operator": there}]
            describe(tmp_path, "other", port, versions={"rows": others})
            with pytest.raises(fed.OtherVersionError, match=f"runs {package} {there[:3]}") as told:
                fed.connect("other", state=tmp_path)
            assert told.value.package == package
