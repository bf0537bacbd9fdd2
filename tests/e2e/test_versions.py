"""Sites whose Python differs: `fed up` stops with a table before anything starts."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.leftovers import Before

if TYPE_CHECKING:
    from tests.e2e.world import World

REQUEST, HOST = 6, 7


def pretend(world: World, site: str, folder: Path) -> None:
    """Make what lies in a folder come first on the path of a site's Python."""
    agent = world.sites[site]
    agent.end()
    agent.prologue = f"export PYTHONPATH={folder}${{PYTHONPATH:+:$PYTHONPATH}}"
    agent.read_only = [str(folder)]
    agent.configure()
    agent.start()


def other_version(folder: Path, package: str, version: str) -> Path:
    """Make a distribution's metadata say another version."""
    information = folder / f"{package}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    )
    return folder


def row(text: str, package: str) -> list[str]:
    """Return a line of the table that `fed up` has printed."""
    (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{package} "))
    return line.split()


def stops(world: World) -> str:
    """Assert that `fed up` stops and nothing has been started; return what it said."""
    before = Before.of(world)
    told = world.fed(*world.up_arguments(), code=REQUEST).stderr
    assert row(told, "package") == ["package", "operator", "ecmwf", "eumetsat"]
    assert "node started" not in told
    for site in world.sites.values():
        assert "node started" not in site.log
    assert before.left(world.lab.hosts) == []
    return told


def test_another_distributed(world: World, tmp_path: Path) -> None:
    pretend(world, "eumetsat", other_version(tmp_path / "fake", "distributed", "2023.1.0"))
    told = stops(world)
    _, operator, ecmwf, eumetsat, *note = row(told, "distributed")
    assert operator == ecmwf
    assert eumetsat == "2023.1.0"
    assert " ".join(note) == "must be the same"
    assert row(told, "numpy")[-1] == row(told, "numpy")[1]


def test_another_python(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import sys; sys.version_info = (3, 8, 20)\n")
    pretend(world, "ecmwf", folder)
    told = stops(world)
    assert row(told, "python")[2] == "3.8.20"
    assert " ".join(row(told, "python")[4:]) == "must be the same"


def test_no_distributed(world: World, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run(
        [world.paths.python, "-m", "venv", "--without-pip", str(bare)], check=True, timeout=60
    )
    agent = world.sites["ecmwf"]
    agent.end()
    agent.python = str(bare / "bin" / "python")
    agent.configure()
    agent.start()
    told = stops(world)
    assert row(told, "distributed")[2] == "-"
    assert " ".join(row(told, "distributed")[4:]) == "must be the same"


def test_an_operator_without_distributed(world: World, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run(
        [world.paths.python, "-m", "venv", "--without-pip", str(bare)], check=True, timeout=60
    )
    refused = world.fed("up", "ecmwf", "--python", str(bare / "bin" / "python"), code=HOST)
    assert "has no distributed, which the scheduler needs" in refused.stderr
    assert "--python" in refused.stderr


def test_an_operator_without_the_package_fed(world: World, tmp_path: Path) -> None:
    """An interpreter that has Dask alone, as a site's may."""
    bare = tmp_path / "bare"
    subprocess.run(
        [world.paths.python, "-m", "venv", "--without-pip", str(bare)], check=True, timeout=60
    )
    packages = Path(sysconfig.get_path("purelib"))
    (own,) = (bare / "lib").glob("python*/site-packages")
    (own / "packages.pth").write_text(f"{packages}\n")
    refused = world.fed("up", "ecmwf", "--python", str(bare / "bin" / "python"), code=HOST)
    assert "has no package fed" in refused.stderr
    assert "pip install" in refused.stderr


def test_another_xarray_is_told_and_works(world: World, tmp_path: Path) -> None:
    pretend(world, "ecmwf", other_version(tmp_path / "fake", "xarray", "2020.1.0"))
    up = world.up(workers=1)
    assert row(up.stderr, "xarray")[2] == "2020.1.0"
    assert row(up.stderr, "xarray")[-1] == "differs"
    assert "is up" in up.stdout
    world.fed("down")
