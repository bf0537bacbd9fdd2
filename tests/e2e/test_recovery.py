"""What ends by itself is replaced, and a site that was cut off comes back with new workers."""

from __future__ import annotations

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import notebook as notebooks
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.world import World

DROPPED = 60.0
"""Seconds in which Dask drops a silent peer (30) on a busy machine."""
SITE = 5
"""Exit code of what a site refuses."""
BACK = 120.0
"""Seconds for both ends to notice, and for new workers to start and register."""


@pytest.fixture(autouse=True)
def _registered(request: pytest.FixtureRequest) -> None:
    notebooks.register(request.module)


def workers(world: World, pool: str) -> list[str]:
    """Return the names of a pool's workers, as the scheduler knows them."""
    (member,) = (each for each in world.status()["members"] if each["name"] == pool)
    found: list[dict[str, Any]] = member["pools"][pool]
    return sorted(each["name"] for each in found)


def _answer_after(seconds: float, pool: str) -> str:
    import time

    from distributed import get_client

    def slowly(number: int) -> int:
        time.sleep(seconds)
        return number + 1

    client = get_client()
    futures = client.map(slowly, range(4), pure=False, resources={f"pool-{pool}": 0})
    return str(sum(client.gather(futures)))


def _retire(name: str) -> None:
    from distributed import get_client

    get_client().retire_workers(names=[name])


def test_status_while_tasks_run_and_after(world: World) -> None:
    world.up(workers=1)
    with world.notebook() as notebook, ThreadPoolExecutor(1) as thread:
        notebook.connect()
        computing = thread.submit(notebook, _answer_after, 1.0, "ecmwf")
        while not computing.done():
            assert workers(world, "ecmwf") == ["ecmwf-1-0"]
        assert computing.result() == "10"
        assert workers(world, "ecmwf") == ["ecmwf-1-0"]
        assert {member["problem"] for member in world.status()["members"]} == {None}
    world.fed("down")


def test_a_worker_that_is_killed_is_replaced(world: World) -> None:
    """With its nanny, as when a machine's memory runs out; the computation goes on."""
    world.up(workers=1)
    with world.notebook() as notebook:
        notebook.connect()
        assert workers(world, "ecmwf") == ["ecmwf-1-0"]
        (nanny,) = world.pids("ecmwf", r"dask_worker.* --name ecmwf-1-0")
        os.kill(nanny, signal.SIGKILL)
        until(lambda: workers(world, "ecmwf") == ["ecmwf-1-1"], patience=BACK)
        # It ends in good order then, but nobody has retired it.
        (nanny,) = world.pids("ecmwf", r"dask_worker.* --name ecmwf-1-1")
        os.kill(nanny, signal.SIGTERM)
        until(lambda: workers(world, "ecmwf") == ["ecmwf-1-2"], patience=BACK)
        assert notebook(_answer_after, 0.1, "ecmwf") == "10"
        # An order to start a worker that comes after the order to end it, over another connection,
        # comes too late.
        (federation,) = world.sites["ecmwf"].federations
        assert _tell(federation, {"Terminate": ["ecmwf-1-9"]}) == "Done"
        late = {"name": "ecmwf-1-9", "argv": ["sleep", "60"], "env": {}}
        refused = _tell(federation, {"Run": late})
        assert refused == {"Failed": "ecmwf-1-9 was told to end before it began"}
    world.fed("down")


def _tell(federation: Path, request: dict[str, Any]) -> Any:
    """Give an order to a site's node, as its agent does; return the answer."""
    folder = os.open(federation / "node", os.O_PATH)
    with socket.socket(socket.AF_UNIX) as stream:
        # The path itself may be too long for a socket's address.
        stream.connect(f"/proc/self/fd/{folder}/node.sock")
        os.close(folder)
        stream.sendall(json.dumps(request).encode() + b"\n")
        with stream.makefile() as answers:
            return json.loads(answers.readline())


def test_a_worker_that_is_retired_is_not_replaced(world: World) -> None:
    """Nor does it count: another federation of the operator may have one in its place."""
    world.sites["ecmwf"].reload("[policy]\nworkers = 2\n")
    world.up()
    with world.notebook() as notebook:
        notebook.connect()
        assert workers(world, "ecmwf") == ["ecmwf-1-0", "ecmwf-1-1"]
        notebook(_retire, "ecmwf-1-0")
        until(lambda: len(world.pids("ecmwf", r"dask_worker.* --name ecmwf")) == 1)
        assert workers(world, "ecmwf") == ["ecmwf-1-1"]
        # The pool's number has gone down with it: the next that is lost is replaced by one.
        (nanny,) = world.pids("ecmwf", r"dask_worker.* --name ecmwf-1-1")
        os.kill(nanny, signal.SIGKILL)
        until(lambda: workers(world, "ecmwf") == ["ecmwf-1-2"], patience=BACK)
        assert notebook(_answer_after, 0.1, "ecmwf") == "10"
        world.up("--name", "second", sites=["ecmwf"], workers=1)
        third = world.up("--name", "third", sites=["ecmwf"], workers=1, code=SITE)
        assert "2 would become 3" in third.stderr
    world.fed("down", "second")
    world.fed("down")


def test_a_site_that_was_cut_off_rejoins_inside_its_lease(world: World) -> None:
    """Longer than Dask waits for a silent peer: the site's workers are new ones."""
    world.up("--lease", "5m", workers=1)
    with world.notebook() as notebook:
        notebook.connect()
        for other in ("operator", "eumetsat"):
            world.lab.cut("ecmwf", other)
        until(lambda: workers(world, "ecmwf") == [], patience=DROPPED)
        for other in ("operator", "eumetsat"):
            world.lab.mend("ecmwf", other)
        until(lambda: len(workers(world, "ecmwf")) == 1, patience=BACK)
        assert workers(world, "ecmwf") != ["ecmwf-1-0"]
        assert notebook(_answer_after, 0.1, "ecmwf") == "10"
    assert world.status()["phase"] == "running"
    world.fed("down")
