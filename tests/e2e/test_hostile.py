"""Tasks that mean harm, on a real worker: each fails cleanly or is contained, the other processes
of the host go on, and the same federation computes the right answer afterwards.

What reaches for another federation's workers is in `test_neighbours`.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.e2e import notebook as notebooks
from tests.e2e import programs, workload
from tests.e2e import world as worlds
from tests.e2e.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.notebook import Notebook
    from tests.e2e.world import World

LIMITS = """
processes = 200
scratch = "256 MiB"
"""
PORT = 5999
ABSTRACT = "fed-test-of-the-host"

SERVE = f"""
import socket, time
tcp = socket.create_server(("127.0.0.1", {PORT}))
unix = socket.socket(socket.AF_UNIX)
unix.bind("\\0{ABSTRACT}")
unix.listen()
print("listening", flush=True)
time.sleep(10000)
"""
"""A program of the host that has nothing to do with fed."""

BOMB = """
import os
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[World]:
    changes = {"ecmwf": {"limits": LIMITS}}
    with worlds.running(tmp_path_factory.mktemp("world"), data, changes=changes) as world:
        world.up()
        yield world


@pytest.fixture(scope="module")
def session(federation: World, request: pytest.FixtureRequest) -> Notebook:
    """A session that is connected."""
    for module in (request.module, workload):
        notebooks.register(module)
    session = federation.notebook()
    session.connect()
    return session


@pytest.fixture(scope="module")
def bystander(federation: World) -> Iterator[subprocess.Popen[str]]:
    """Another process of the agent's user on the site's host."""
    process: subprocess.Popen[str] = federation.lab["ecmwf"].popen(
        [programs.python(), "-c", SERVE], stdout=subprocess.PIPE, text=True
    )
    with ExitStack() as cleanup:
        cleanup.callback(process.wait, PATIENCE)
        cleanup.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield process


def _on_worker(function: Callable[..., Any], args: tuple) -> Any:
    from distributed import get_client

    resources = {"pool-ecmwf": 0}
    return get_client().submit(function, *args, resources=resources, pure=False).result(80)


def _ending(attempt: Callable[..., Any], *args: Any) -> str:
    """Return the name of the error that the system refuses with, or what was returned."""
    try:
        return repr(attempt(*args))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)


def _read(path: str) -> str:
    return Path(path).read_text(errors="replace")


def _write(path: str) -> str:
    Path(path).write_text("x")
    return "written"


def _strangers() -> list[str]:
    """Return what runs here and is neither PID 1 nor of a worker."""
    folders = (folder for folder in Path("/proc").iterdir() if folder.name.isdigit())
    texts = [_read(f"{folder}/cmdline").replace("\0", " ") for folder in folders]
    return [text for text in texts if "python" not in text and "fed node" not in text]


def _trace(pid: int) -> str:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    attach = 16
    if libc.ptrace(attach, pid, None, None) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")
    return "traced"


def _connect(family: str, address: Any) -> str:
    import socket

    with socket.socket(getattr(socket, family)) as connection:
        connection.settimeout(10)
        connection.connect(address)
    return "connected"


def test_what_is_refused(
    federation: World, session: Notebook, bystander: subprocess.Popen[str]
) -> None:
    site, hosts = federation.sites["ecmwf"], federation.lab.hosts
    identity = site.state / "identity" / "agent.pem"
    assert "PRIVATE KEY" in identity.read_text()
    assert site.agent is not None
    package = Path(np.__file__).parent / "new"
    table: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
        (_read, (str(identity),), "ENOENT"),
        (_read, (str(site.folder / "agent.toml"),), "ENOENT"),
        (_read, ("/proc/1/environ",), "EACCES"),
        (_read, ("/proc/1/mem",), "EACCES"),
        (_read, (f"/proc/{site.agent.pid}/environ",), "ENOENT"),
        (_write, ("/proc/sys/kernel/core_pattern",), "EROFS"),
        (_write, ("/proc/self/oom_score_adj",), "EROFS"),
        (os.kill, (site.agent.pid, 9), "ESRCH"),
        (os.kill, (bystander.pid, 9), "ESRCH"),
        # PID 1 does not heed them.
        (os.kill, (1, 9), "None"),
        (_trace, (1,), "EPERM"),
        (_strangers, (), "[]"),
        (_connect, ("AF_INET", ("127.0.0.1", PORT)), "ECONNREFUSED"),
        (_connect, ("AF_INET", (hosts["ecmwf"].addr4, 4788)), "ENETUNREACH"),
        (_connect, ("AF_INET6", (hosts["ecmwf"].addr6, 4788)), "ENETUNREACH"),
        (_connect, ("AF_INET", (hosts["operator"].addr4, 8786)), "ENETUNREACH"),
        (_connect, ("AF_UNIX", f"\0{ABSTRACT}"), "ECONNREFUSED"),
        (_connect, ("AF_UNIX", str(site.state / "agent.sock")), "ENOENT"),
        (_write, ("/data/ecmwf/t.nc",), "EROFS"),
        (_write, (str(package),), "EROFS"),
        (_write, (federation.paths.python,), "EROFS"),
        (_write, ("/etc/hosts",), "EROFS"),
        (os.setuid, (12345,), "EINVAL"),
        (os.mknod, ("device", 0o20666, os.makedev(1, 1)), "EPERM"),
    ]
    wrong = {}
    for attempt, args, wanted in table:
        ended = session(_on_worker, _ending, (attempt, *args))
        if ended != wanted:
            wrong[attempt.__name__, args] = ended
    assert wrong == {}


def _once(harm: Callable[[], None], name: str) -> str:
    """Do harm once, and hold on to it; when this is tried again, do none."""
    import time

    from distributed import Event

    done = Event(name)
    if done.is_set():
        return "went on"
    done.set()
    harm()
    time.sleep(60)
    return "nothing came of it"


def _fork() -> None:
    subprocess.Popen([sys.executable, "-c", BOMB])


def _fill_memory() -> None:
    hold = "import time; held = b'x' * (700 << 20); time.sleep(1000)"
    for _ in range(3):
        subprocess.Popen([sys.executable, "-c", hold])


def _fill_scratch() -> None:
    import tempfile

    for _ in range(2):
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(bytes(200 << 20))


def _workers() -> dict[str, str]:
    """Return the names of the workers, with the pool of each."""
    from distributed import get_client

    workers = get_client().scheduler_info(n_workers=-1)["workers"].values()
    return {str(worker["name"]): str(worker["name"]).split("-")[0] for worker in workers}


@pytest.mark.parametrize(
    ("harm", "wanted"),
    [
        (_fork, ("processes and threads, and it may have 200", 1)),
        (_fill_memory, ("MiB of memory, and it may hold 1536 MiB", 1)),
        (_fill_scratch, ("MiB, and it may hold 256 MiB", 2)),
    ],
)
def test_what_is_contained(
    federation: World,
    session: Notebook,
    bystander: subprocess.Popen[str],
    harm: Callable[[], None],
    wanted: tuple[str, int],
) -> None:
    """The workers that it takes are replaced, and the task is tried again."""
    site, (said, lost) = federation.sites["ecmwf"], wanted
    before = until(lambda: session(_workers), lambda found: len(found) == 4)
    assert session(_on_worker, _once, (harm, harm.__name__)) == "went on"
    after = until(lambda: session(_workers), lambda found: len(found) == 4 and found != before)
    gone = set(before) - set(after)
    assert len(gone) == lost
    assert all(name.startswith("ecmwf-") for name in gone)
    # Told at the site, with the worker's name, and to the operator.
    told = [line for line in site.log.splitlines() if said in line]
    assert all(any(name in line for line in told) for name in gone), site.log
    assert site.agent is not None
    assert site.agent.poll() is None
    assert bystander.poll() is None
    (folder,) = site.federations
    scratch = [file for file in (folder / "node" / "scratch").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in scratch) < 100 << 20


def test_the_federation_goes_on(session: Notebook, data: Path) -> None:
    def computed() -> float:
        import fed

        near, far = (fed.open_dataset(f"/data/{pool}/t.nc")["t"] for pool in ("ecmwf", "eumetsat"))
        return float((near.mean("realization") - far.mean("realization")).mean().compute())

    import xarray as xr

    with (
        xr.open_dataset(data / "ecmwf" / "t.nc") as near,
        xr.open_dataset(data / "eumetsat" / "t.nc") as far,
    ):
        assert session(computed) == pytest.approx(float((near["t"] - far["t"]).mean()), abs=1e-3)
