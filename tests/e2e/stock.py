"""Stock Dask on the hosts of a world: the same pools and workers, without fed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.e2e import programs
from tests.e2e.waiting import PATIENCE
from tests.e2e.world import WORKERS

if TYPE_CHECKING:
    from tests.e2e.lab import Host
    from tests.e2e.notebook import Notebook
    from tests.e2e.world import World

PORT = 9786


def start(world: World) -> Notebook:
    """Start a scheduler on the operator's host and workers at the sites; return a session there.

    Everything ends with the world.
    """
    operator = world.operator
    _dask(world, operator, "scheduler", "--host", operator.addr4, "--port", str(PORT),
          "--no-dashboard")  # fmt: skip
    for site in world.sites:
        for number in range(WORKERS):
            _dask(world, world.lab[site], "worker", f"tcp://{operator.addr4}:{PORT}",
                  "--host", world.lab[site].addr4, "--name", f"{site}-{number}",
                  "--nthreads", "1", "--memory-limit", "1GiB", "--no-nanny", "--no-dashboard",
                  "--resources", f"pool-{site}=1",
                  "--local-directory", programs.TEMPORARY)  # fmt: skip
    notebook = world.notebook()
    notebook(_connect, f"tcp://{operator.addr4}:{PORT}", len(world.sites) * WORKERS)
    return notebook


def _connect(address: str, workers: int) -> None:
    from distributed import Client

    Client(address, timeout=PATIENCE).wait_for_workers(workers, timeout=PATIENCE)


def _dask(world: World, host: Host, *arguments: str) -> None:
    log = (world.folder / "stock.log").open("a")
    process = host.popen(
        [world.paths.python, "-m", "dask", *arguments],
        # The counters of reads and steals are fed's own; nothing else of it is used.
        env=programs.environment(PYTHONPATH=world.paths.package),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
    )
    log.close()
    world.cleanup.callback(process.wait, timeout=PATIENCE)
    world.cleanup.callback(process.kill)
