"""Starts Dask clusters of two pools for the tests: one with fed's extension, one without."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from distributed import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "crates" / "fed-python" / "python"
POOLS = ("north", "south")
THREE_POOLS = (*POOLS, "west")
WORKERS_PER_POOL = 2
PATIENCE = 60.0
"""Seconds that a process may take to start or to end, on a busy machine."""


@dataclass
class Cluster:
    """A scheduler and workers in processes of their own."""

    folder: Path
    data: Path
    with_fed: bool
    pools: tuple[str, ...] = ()
    """By default those of the module, at the time of the start."""
    address: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment of a process of the cluster."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FED_", "DASK_", "PYTEST_"))
        }
        return {
            **clean,
            "PYTHONPATH": f"{PACKAGE}:{ROOT}",
            "DASK_TEMPORARY_DIRECTORY": str(self.folder),
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{PATIENCE:.0f}s",
            **extra,
        }

    def start(self) -> None:
        """Start the scheduler and all workers, and wait until they are registered."""
        self.pools = self.pools or POOLS
        file = self.folder / "scheduler.json"
        preload = ["--preload", "fed.scheduler"] if self.with_fed else []
        self.spawn(
            "scheduler",
            ["scheduler", "--host", "127.0.0.1", "--port", "0",
             "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file), *preload],
            FED_POOLS=json.dumps([{"name": pool, "site": f"site-{pool}"} for pool in self.pools]),
        )  # fmt: skip
        self.address = self._address(file)
        for number, pool in enumerate(self.pools, start=1):
            for index in range(WORKERS_PER_POOL):
                self.start_worker(pool, f"{pool}-{number}-{index}")
        with self.client() as client:
            client.wait_for_workers(len(self.pools) * WORKERS_PER_POOL, timeout=PATIENCE)

    def _address(self, file: Path) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                return json.loads(file.read_text())["address"]
            if self.processes[0].poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError("the scheduler did not start: " + self.log("scheduler"))

    def start_worker(
        self, pool: str, name: str, *, resources: bool = True
    ) -> subprocess.Popen[bytes]:
        """Start a worker process of a pool; it registers by itself."""
        offered = ["--resources", f"pool-{pool}=1"] if resources else []
        preloads = ["--preload", "fed.worker"] if self.with_fed else []
        fed = {"FED_POOL": pool} if self.with_fed else {}
        return self.spawn(
            name,
            ["worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--no-nanny",
             "--no-dashboard", "--name", name, *offered,
             "--local-directory", str(self.folder / name), "--memory-limit", "0",
             *preloads, "--preload", "tests.python.reads"],
            FED_TEST_DATA=str(self.data),
            FED_TEST_POOL=pool,
            **fed,
        )  # fmt: skip

    def spawn(self, name: str, arguments: list[str], **extra: str) -> subprocess.Popen[bytes]:
        """Start ``dask ARGUMENTS`` as a child, its output in a log."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self.environment(**extra),
            )
        self.processes.append(process)
        return process

    def log(self, name: str) -> str:
        """Return what a process has written."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def client(self, **kwargs) -> Client:
        """Return a client of the cluster, the default one while it is open."""
        return Client(self.address, timeout=PATIENCE, **kwargs)

    def stop(self) -> None:
        """Kill every process that was started, workers first."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE)
        self.processes.clear()


@contextlib.contextmanager
def running(
    folder: Path, data: Path, *, with_fed: bool, pools: tuple[str, ...] = ()
) -> Iterator[Cluster]:
    """Run a cluster for the duration of a block."""
    cluster = Cluster(folder, data, with_fed, pools)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
