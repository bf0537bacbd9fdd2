"""Trivial tasks per second of a scheduler with fed's extension, beside a stock one.

    python -m tests.bench.scheduler [--output FILE] [--tasks N] [--repetitions N]

Two clusters of two pools stand on this machine at once, and compute in turn, so that whatever else
the machine does meets both. What counts is the ratio of the medians; the ratio of the schedulers'
own processor time, which other programs disturb less, stands beside it.
"""

from __future__ import annotations

import sys
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil

from tests.bench import command
from tests.bench.clusters import side_by_side

if TYPE_CHECKING:
    from tests.python.federations import Cluster

LEAST_RATIO = 0.95
PATIENCE = 600.0
KINDS = ("no pools", "pinned")


def trivial(number: int) -> int:
    """Do next to nothing."""
    return number + 1


def run(cluster: Cluster, kind: str, tasks: int) -> tuple[float, float]:
    """Compute tasks; return the seconds that passed, and those that the scheduler computed."""
    from distributed import wait

    process = psutil.Process(cluster.processes[0].pid)
    resources = {"resources": {"pool-north": 0}} if kind == "pinned" else {}
    with cluster.client() as client:
        client.submit(trivial, 0, pure=False, **resources).result(timeout=PATIENCE)
        before = process.cpu_times()
        start = time.perf_counter()
        futures = client.map(trivial, range(tasks), pure=False, **resources)
        wait(futures, timeout=PATIENCE)
        seconds = time.perf_counter() - start
        after = process.cpu_times()
    return seconds, after.user + after.system - before.user - before.system


def measure(
    kind: str, tasks: int, repetitions: int, clusters: dict[str, Cluster]
) -> dict[str, Any]:
    """Compare the two clusters."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in clusters}
    for repetition in range(repetitions):
        # Neither is always the first.
        for name in sorted(clusters, reverse=bool(repetition % 2)):
            found[name].append(run(clusters[name], kind, tasks))
            seconds, busy = found[name][-1]
            print(f"{kind}, {name}: {tasks / seconds:.0f} tasks/s,"
                  f" {1e6 * busy / tasks:.0f} µs each", file=sys.stderr, flush=True)  # fmt: skip
    wall, own = ({name: median(pair[part] for pair in pairs) for name, pairs in found.items()}
                 for part in (0, 1))  # fmt: skip
    return {
        "tasks": kind,
        "count": tasks,
        "repetitions": repetitions,
        "ratio": wall["stock"] / wall["fed"],
        "processor_ratio": own["stock"] / own["fed"],
    }


def main() -> int:
    """Print a table, and save it as JSON."""
    parser = command.parser(__doc__)
    parser.add_argument("--tasks", type=int, default=50_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--kind", choices=KINDS, action="append", help="by default, each")
    given = parser.parse_args()
    with side_by_side() as clusters:
        table = [
            measure(kind, given.tasks, given.repetitions, clusters) for kind in given.kind or KINDS
        ]
    print(f"{'tasks':12} {'count':>8} {'tasks/s, fed over stock':>25} {'processor':>10}")
    for row in table:
        print(f"{row['tasks']:12} {row['count']:8} {row['ratio']:25.3f}"
              f" {row['processor_ratio']:10.3f}")  # fmt: skip
    command.save(given.output, {"runs": table})
    return 0 if all(row["ratio"] >= LEAST_RATIO for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
