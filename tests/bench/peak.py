"""The most memory that the chunks of reductions take up in a cluster, with pins and without.

    python -m tests.bench.peak [--output FILE] [--chunks N] [--repetitions N]

Two clusters of two pools stand on this machine at once and compute in turn the mean and the maximum
of an array in each pool. Two tasks need each chunk, so that it is not fused with them; it waits in
memory for both, and chunks pile up if those that make them are not queued. What counts is the
ratio of the peaks on the cluster with fed's extension, which does not depend on the speed of the
machine; a stock scheduler, which queues no pinned tasks, stands beside it.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from statistics import median
from typing import TYPE_CHECKING, Any

import dask
from distributed.diagnostics.plugin import SchedulerPlugin

from fed.context import pinning
from tests.bench import command
from tests.bench.clusters import side_by_side
from tests.bench.session import PREPARED
from tests.bench.workloads import NORTH, SOUTH, Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from distributed import Client

MOST_RATIO = 1.3
PATIENCE = 300.0
SIDE = 1000
"""Values along each side of a chunk, of 4 MB."""


class Peak(SchedulerPlugin):
    """Records the most bytes that the workers of a scheduler have held together."""

    name = "bench-peak"

    def __init__(self) -> None:
        self.nbytes = 0
        self.scheduler: Any = None

    async def start(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def transition(self, key: Any, start: Any, finish: Any, *args: Any, **kwargs: Any) -> None:
        if finish == "memory":
            held = sum(worker.nbytes for worker in self.scheduler.workers.values())
            self.nbytes = max(self.nbytes, held)


def take(dask_scheduler: Any) -> int:
    """Return the peak since the last call; for ``client.run_on_scheduler``."""
    plugin = dask_scheduler.plugins[Peak.name]
    nbytes, plugin.nbytes = plugin.nbytes, 0
    return int(nbytes)


def _keep_annotations() -> None:
    dask.config.set(PREPARED)


def _annotated(pool: str) -> AbstractContextManager[Any]:
    return dask.annotate(resources={f"pool-{pool}": 0})


def _anywhere(_pool: str) -> AbstractContextManager[Any]:
    return nullcontext()


WAYS: dict[str, tuple[str, Callable[[str], AbstractContextManager[Any]]]] = {
    "fed, without pins": ("fed", _anywhere),
    "fed, pinned": ("fed", pinning),
    "stock, without pins": ("stock", _anywhere),
    "stock, annotated": ("stock", _annotated),
}
"""Cluster, and what its sources are opened in."""


def peak(client: Client, pin: Callable[[str], AbstractContextManager[Any]], chunks: int) -> int:
    """Compute the reductions, and return the most bytes that were held meanwhile."""
    sizes = {"x": chunks, "y": SIDE, "z": SIDE}
    source = Source(pin)
    arrays = [source.array(pool, sizes, {"x": 1}) for pool in (NORTH, SOUTH)]
    for future in client.compute([array.mean() / array.max() for array in arrays]):
        future.result(timeout=PATIENCE)
    found: int = client.run_on_scheduler(take)
    return found


def measure(clients: dict[str, Client], chunks: int, repetitions: int) -> dict[str, float]:
    """Return the median peak of each way in bytes; the ways take turns."""
    found: dict[str, list[int]] = {way: [] for way in WAYS}
    for _ in range(repetitions):
        for way, (cluster, pin) in WAYS.items():
            found[way].append(peak(clients[cluster], pin, chunks))
            print(f"{way}: {found[way][-1] / 1e6:.0f} MB", file=sys.stderr, flush=True)
    return {way: median(peaks) for way, peaks in found.items()}


def main() -> int:
    """Print a table, and save it as JSON."""
    parser = command.parser(__doc__)
    parser.add_argument("--chunks", type=int, default=200, help="chunks of each of two arrays")
    parser.add_argument("--repetitions", type=int, default=3)
    given = parser.parse_args()
    with (
        side_by_side() as clusters,
        clusters["fed"].client(set_as_default=False) as client,
        clusters["stock"].client(set_as_default=False) as stock_client,
    ):
        stock_client.run_on_scheduler(_keep_annotations)
        clients = {"fed": client, "stock": stock_client}
        for each in clients.values():
            each.register_plugin(Peak())
        peaks = measure(clients, given.chunks, given.repetitions)
    ratio = peaks["fed, pinned"] / peaks["fed, without pins"]
    print(f"{'reduction of ' + str(2 * given.chunks) + ' chunks':28} {'peak, MB':>9}"
          f" {'over without pins':>18}")  # fmt: skip
    for way, nbytes in peaks.items():
        without = peaks[f"{WAYS[way][0]}, without pins"]
        print(f"{way:28} {nbytes / 1e6:9.0f} {nbytes / without:18.2f}")
    report = {
        "chunks": 2 * given.chunks,
        "chunk_bytes": 4 * SIDE * SIDE,
        "repetitions": given.repetitions,
        "peak_bytes": peaks,
        "ratio": ratio,
    }
    command.save(given.output, report)
    return 0 if ratio <= MOST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
