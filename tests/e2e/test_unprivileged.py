"""The whole way as an ordinary user: agents and operator have no privilege at all."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e import programs
from tests.e2e import world as worlds
from tests.e2e.lab import Bind
from tests.e2e.leftovers import Before
from tests.e2e.world import Paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.world import World

USER = (54321, 54321)
"""Numbers of a user that no system has."""

BASE, PACKAGES, PACKAGE = (Path("/srv/fed-e2e", part) for part in ("base", "packages", "fed"))
"""Where the hosts show the interpreter, its packages, and the package `fed`."""

CLIENT = """
import json, os
import fed

client = fed.connect()
predictions = fed.open_dataset("/data/ecmwf/t.nc")["t"]
observations = fed.open_dataset("/data/eumetsat/t.nc")["t"]
difference = (predictions.mean("realization") - observations.mean("realization")).mean()
print(json.dumps({
    "difference": float(difference.compute()),
    "users": sorted(set(client.run(os.getuid).values())),
    "capabilities": sorted({
        line.split()[1]
        for text in client.run(lambda: open("/proc/self/status").read()).values()
        for line in text.splitlines() if line.startswith("CapEff")
    }),
    "stats": fed.stats(),
}))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the user can reach; pytest's own are private to the user who runs it."""
    with tempfile.TemporaryDirectory(prefix="fed-e2e-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@pytest.fixture
def device(folder: Path) -> Path:
    """A TUN device that everybody may open, as some systems have it; shown to the hosts alone."""
    path = folder / "tun"
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(10, 200))
    path.chmod(0o666)
    return path


@dataclass(frozen=True)
class Interpreter:
    """The interpreter under test in parts, each of which the user may be unable to reach."""

    base: Path
    """Folder of the installation that the virtual environment was made from."""
    executable: Path
    """Its program, below that folder."""
    packages: Path
    """Folder of the environment's packages."""

    @classmethod
    def under_test(cls) -> Interpreter:
        ask = (
            "import os, sys, sysconfig; print(os.path.realpath(sys.base_prefix));"
            "print(os.path.realpath(sys.executable)); print(sysconfig.get_path('purelib'))"
        )
        answer = subprocess.run(
            [programs.python(), "-c", ask], check=True, capture_output=True, text=True, timeout=60
        )
        base, executable, packages = (Path(line) for line in answer.stdout.splitlines())
        return cls(base, executable.relative_to(base), packages)

    def install(self, folder: Path) -> str:
        """Make an environment in a folder, of the parts where the hosts show them."""
        made = folder / "venv"
        (made / "bin").mkdir(parents=True)
        (made / "bin" / "python").symlink_to(BASE / self.executable)
        (made / "pyvenv.cfg").write_text(f"home = {(BASE / self.executable).parent}\n")
        own = made / "lib" / self.packages.relative_to(self.packages.parents[1])
        own.mkdir(parents=True)
        (own / "parts.pth").write_text(f"{PACKAGES}\n{PACKAGE}\n")
        # A shared library of the interpreter is looked for where it was installed first.
        start = made / "bin" / "start"
        start.write_text(
            f'#!/bin/sh\nLD_LIBRARY_PATH={BASE}/lib exec {made}/bin/python "$@"\n', encoding="utf-8"
        )
        start.chmod(0o755)
        return str(start)


@pytest.fixture
def ordinary(folder: Path, device: Path, data: Path) -> Iterator[World]:
    """A world of an ordinary user, who may not be able to enter the folder of the checkout."""
    program = folder / "fed"
    shutil.copy2(programs.fed(), program)
    interpreter = Interpreter.under_test()
    binds = [
        Bind(device, "/dev/net/tun"),
        Bind(interpreter.base, BASE, read_only=True),
        Bind(interpreter.packages, PACKAGES, read_only=True),
        Bind(programs.PACKAGE, PACKAGE, read_only=True),
    ]
    paths = Paths(str(program), interpreter.install(folder), str(PACKAGE))
    with worlds.running(folder, data, paths=paths, binds=binds, user=USER) as world:
        yield world


def test_an_ordinary_user(ordinary: World, data: Path) -> None:
    import xarray as xr

    before = Before.of(ordinary)
    ordinary.up()
    client = ordinary.operator.run(
        [ordinary.paths.python, "-c", CLIENT],
        user=USER,
        env=ordinary.client_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        cwd="/",
    )
    assert client.returncode == 0, client.stderr
    told = json.loads(client.stdout.splitlines()[-1])
    with (
        xr.open_dataset(data / "ecmwf" / "t.nc") as ours,
        xr.open_dataset(data / "eumetsat" / "t.nc") as theirs,
    ):
        assert told["difference"] == pytest.approx(
            float((ours["t"] - theirs["t"]).mean()), abs=1e-3
        )
    assert told["users"] == [USER[0]]
    assert told["capabilities"] == ["0" * 16]
    assert set(told["stats"]["tasks_per_site"]) == {"ecmwf", "eumetsat"}
    for host in ("operator", "ecmwf", "eumetsat"):
        assert _owners(ordinary, host) == {USER[0]}
    ordinary.fed("down")
    before.clean()


def _owners(world: World, host: str) -> set[int]:
    """Return the users of all fed's and Dask's processes on a host."""
    pids = world.pids(host, r"fed (agent|node)|--supervised|dask_(scheduler|worker)")
    return {Path(f"/proc/{pid}").stat().st_uid for pid in pids}
