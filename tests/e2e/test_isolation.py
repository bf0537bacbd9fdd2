"""What a worker can see and do: its own site's data and its scratch, and no more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.programs import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.notebook import Notebook
    from tests.e2e.world import World


@pytest.fixture(scope="module")
def at_site(notebook: Notebook) -> Callable[..., Any]:
    """Call a function on a worker of a pool, from the client's session."""

    def call(pool: str, function: Callable[..., Any], *args: Any) -> Any:
        return notebook(_on_worker, pool, function, args)

    return call


def _on_worker(pool: str, function: Callable[..., Any], args: tuple) -> Any:
    from distributed import get_client

    resources = {f"pool-{pool}": 0}
    return get_client().submit(function, *args, resources=resources, pure=False).result(60)


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def _listed(path: str) -> list[str] | None:
    """Return what lies in a folder; None if it is not there or must not be read."""
    try:
        return sorted(entry.name for entry in Path(path).iterdir())
    except (FileNotFoundError, PermissionError, NotADirectoryError):
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace")
    except (FileNotFoundError, PermissionError):
        return None


def test_no_capability(at_site: Callable) -> None:
    status = at_site("ecmwf", _status)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"


def test_only_the_own_data(at_site: Callable) -> None:
    assert at_site("ecmwf", _listed, "/data") == ["ecmwf", "shared"]
    assert at_site("eumetsat", _listed, "/data") == ["eumetsat", "shared"]
    assert "t.nc" in at_site("ecmwf", _listed, "/data/ecmwf")


def test_data_cannot_be_changed(at_site: Callable, data: Path) -> None:
    def write(path: str) -> str:
        try:
            Path(path).write_text("x")
        except OSError as error:
            return os.strerror(error.errno or 0)
        return "written"

    for path in ("/data/ecmwf/new", "/data/ecmwf/t.nc", "/usr/new", "/etc/passwd"):
        assert at_site("ecmwf", write, path) == "Read-only file system"
    assert not (data / "ecmwf" / "new").exists()


def test_scratch_can_be_written(at_site: Callable) -> None:
    def write() -> str:
        import tempfile

        with tempfile.NamedTemporaryFile("w+") as file:
            file.write("kept")
            file.seek(0)
            return file.read()

    assert at_site("ecmwf", write) == "kept"


def test_not_the_agents_state(at_site: Callable, federation: World) -> None:
    site = federation.sites["ecmwf"]
    identity = site.state / "identity" / "agent.pem"
    assert "PRIVATE KEY" in identity.read_text()
    assert at_site("ecmwf", _read, str(identity)) is None
    assert at_site("ecmwf", _read, str(site.folder / "agent.toml")) is None
    (federation_folder,) = site.federations
    assert at_site("ecmwf", _read, str(federation_folder / "federation.json")) is None
    assert at_site("ecmwf", _read, str(federation_folder / "node" / "node.json")) is None
    assert at_site("ecmwf", _listed, str(site.state / "identity")) is None
    # The operator's keys lie on the same machine here, and are as invisible.
    assert at_site("ecmwf", _listed, str(federation.state)) is None
    assert at_site("ecmwf", _read, "/etc/shadow") is None


def test_not_the_hosts_processes(at_site: Callable, federation: World) -> None:
    def commands() -> dict[str, str]:
        folders = (folder for folder in Path("/proc").iterdir() if folder.name.isdigit())
        return {folder.name: _command(folder) for folder in folders}

    seen = at_site("ecmwf", commands)
    assert "1" in seen
    assert any("dask_worker" in command for command in seen.values())
    assert not any("agent" in command.split() for command in seen.values())
    assert len(seen) < len(federation.lab.processes("ecmwf"))
    for command in seen.values():
        assert "eumetsat" not in command


def _command(folder: Path) -> str:
    try:
        return (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except FileNotFoundError:
        return ""


def test_only_the_mesh(at_site: Callable, federation: World) -> None:
    def devices() -> list[str]:
        return sorted(line.split(":")[0].strip() for line in _lines("/proc/net/dev")[2:])

    def connect(address: str, port: int) -> str:
        import socket

        try:
            socket.create_connection((address, port), timeout=10).close()
        except OSError as error:
            return type(error).__name__ if error.errno is None else os.strerror(error.errno)
        return "connected"

    assert at_site("ecmwf", devices) == ["fed0", "lo"]
    for host in federation.lab.hosts.values():
        for address in (host.addr4, host.addr6):
            assert at_site("ecmwf", connect, address, 4788) == "Network is unreachable"
    assert at_site("ecmwf", connect, "operator.fed", 8786) == "connected"
    assert at_site("ecmwf", connect, "127.0.0.1", 4788) == "Connection refused"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def test_not_another_federation(at_site: Callable, federation: World, notebook: Notebook) -> None:
    """Two federations of one operator at one site do not see each other."""
    federation.up("--name", "second", sites=["ecmwf"], workers=1)
    try:
        folders = federation.sites["ecmwf"].federations
        assert len(folders) == 2
        visible = [
            at_site("ecmwf", _listed, str(folder / "node" / "scratch")) for folder in folders
        ]
        assert sorted(listing is None for listing in visible) == [False, True]
        with federation.notebook() as other:
            other.connect("second")
            assert other(_pools) == ["ecmwf"]
        first, second = federation.status()["federation"], federation.status("second")["federation"]
        assert first != second
    finally:
        federation.fed("down", "second")
    assert notebook(_pools) == ["ecmwf", "eumetsat"]


def _pools() -> list[str]:
    from distributed import get_client

    return sorted(set(get_client().run(_pool_here).values()))


def _pool_here() -> str:
    return os.environ["FED_POOL"]


def test_nothing_of_the_agents_environment(at_site: Callable) -> None:
    environment = at_site("ecmwf", _environment)
    assert environment["FED_POOL"] == "ecmwf"
    assert environment["FED_SITE"] == "ecmwf"
    # The agent has one of its own, as the tests started it.
    assert environment["TMPDIR"] != TEMPORARY


def _environment() -> dict[str, str]:
    return dict(os.environ)


def test_what_is_planted_among_the_logs_is_not_read(at_site: Callable, federation: World) -> None:
    """Workers write where their logs lie; the agent reads them with its own rights."""
    secret = next(federation.sites["ecmwf"].state.glob("identity/*"))

    def plant(target: str) -> None:
        logs = Path.home() / "logs"
        (logs / "planted-link.log").symlink_to(target)
        os.mkfifo(logs / "planted-pipe.log")

    def clear() -> None:
        for planted in (Path.home() / "logs").glob("planted-*"):
            planted.unlink()

    assert "PRIVATE KEY" in secret.read_text()
    at_site("ecmwf", plant, str(secret))
    try:
        shown = federation.fed("logs", "--tail", "0").stdout
        # Nothing is read of them, so they are no logs.
        refused = federation.fed("logs", "--only", "planted", "--tail", "0", code=2)
    finally:
        at_site("ecmwf", clear)
    assert "ecmwf/ecmwf-1-0: " in shown
    assert "ecmwf/ecmwf-1-0" in refused.stderr
    told = shown + refused.stdout + refused.stderr
    assert "CERTIFICATE" not in told
    assert "PRIVATE KEY" not in told
