"""A disk that is full, at a site or at the operator's: one error, nothing left, and on with it."""

from __future__ import annotations

import errno
import json
import re
import signal
from typing import TYPE_CHECKING

from tests.e2e import notebook as notebooks
from tests.e2e.leftovers import Before
from tests.e2e.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.e2e.lab import Host
    from tests.e2e.world import World

FAILED, SITE = 1, 5
FULL = "full"


def _make_small(host: Host, folder: Path) -> None:
    """Give a folder of a host a disk of its own, of 32 MiB."""
    _run(host, ["mount", "-t", "tmpfs", "-o", "size=32m,mode=0700", "tmpfs", str(folder)])


def _fill(host: Host, folder: Path) -> None:
    """Leave no byte of a folder's disk."""
    full = host.run(
        ["dd", "if=/dev/zero", f"of={folder / FULL}", "bs=4k"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "No space left on device" in full.stderr


def _run(host: Host, command: list[str]) -> str:
    done = host.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def _entries(host: Host, folder: Path) -> set[str]:
    return set(_run(host, ["ls", "-A", str(folder)]).split())


def _write_until_full(pool: str) -> tuple[int, int]:
    """Fill the scratch folder of a pool's worker; return the error, and what a task says then."""
    import os
    from pathlib import Path

    from distributed import get_client

    def write() -> None:
        with (Path(os.environ["HOME"]) / "big").open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()

    client = get_client()
    here = {f"pool-{pool}": 0}
    error = client.submit(write, pure=False, resources=here, retries=0).exception()
    after = client.submit(sum, [1, 2], pure=False, resources=here).result()
    return error.errno, after


def test_a_site_whose_disk_is_full(world: World, request: pytest.FixtureRequest) -> None:
    notebooks.register(request.module)
    site = world.sites["ecmwf"]
    folder = site.state / "federations"
    _make_small(site.host, folder)
    before = Before.of(world)
    _fill(site.host, folder)
    refused = world.fed(*world.up_arguments(workers=1), code=SITE).stderr
    (error,) = (line for line in refused.splitlines() if line.startswith("error: "))
    assert re.match(r"error: ecmwf: .*federations/.*No space left on device", error), error
    before.clean()
    assert _entries(site.host, folder) == {FULL}
    _run(site.host, ["rm", str(folder / FULL)])

    world.up("--lease", "10s", workers=1)
    with world.notebook() as notebook:
        notebook.connect()
        assert notebook(_write_until_full, "ecmwf") == (errno.ENOSPC, 3)
    (member,) = (each for each in world.status()["members"] if each["name"] == "ecmwf")
    assert member["problem"] is None
    world.fed("down")
    before.clean()
    assert _entries(site.host, folder) == set()
    world.up(workers=1)
    world.fed("down")


def test_an_operator_is_removed_though_the_disk_is_full(world: World) -> None:
    """A removal is the one thing that must not wait until there is room."""
    site = world.sites["ecmwf"]
    site.end(signal.SIGTERM)
    kept = site.folder / "kept"
    _run(site.host, ["cp", "-a", str(site.state), str(kept)])
    _make_small(site.host, site.state)
    _run(site.host, ["cp", "-a", f"{kept}/.", str(site.state)])
    site.start()
    world.up(sites=["ecmwf"], workers=1)
    (operator,) = json.loads(site.run("operators", "--output", "json"))
    _fill(site.host, site.state)
    removed = site.host.run(
        site.command("operators", "remove", operator["name"]),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert removed.returncode == 0, removed.stderr
    assert "ended 1 federation of theirs" in removed.stderr
    assert json.loads(site.run("operators", "--output", "json")) == []
    assert _entries(site.host, site.state / "federations") == set()
    world.fed(*world.up_arguments("--name", "again", sites=["ecmwf"], workers=1), code=SITE)
    world.fed("down")


def test_an_operator_whose_disk_is_full(world: World) -> None:
    folder = world.state / "federations"
    _make_small(world.operator, folder)
    before = Before.of(world)
    _fill(world.operator, folder)
    for options in ((), ("--detach",)):
        refused = world.fed(*world.up_arguments(*options, workers=1), code=FAILED).stderr
        (error,) = (line for line in refused.splitlines() if line.startswith("error: "))
        assert "No space left on device" in error
        assert str(folder) in error
    before.clean()
    _run(world.operator, ["rm", str(folder / FULL)])
    world.up(workers=1)
    world.fed("down")
    assert not {name for name in _entries(world.operator, folder) if not name.endswith(".lock")}
