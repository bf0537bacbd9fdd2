"""What crosses between pools, beside the fewest bytes that can.

    python -m tests.bench.placement [--output FILE] [NAME …]

Hosts of three sites, joined by an emulated WAN, hold the workers of stock Dask, whose sources are
pinned too, and then a federation. Each workload runs in both. Its result stays where it was made
until all is counted.

Payload is counted at Dask's comms, where it leaves a worker, shards of peer-to-peer shuffles
included. What the mesh carried are the bytes of all its datagrams from the submission of a workload
to its end: the scheduler's messages, headers and acknowledgements of TCP, handshakes, and what
WireGuard adds. ``wire_bytes`` are the frames on all links of the WAN, with headers of UDP, IP and
Ethernet.
"""

from __future__ import annotations

import math
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.bench import command, oracle, recording, session
from tests.bench import workloads as workloads_of_benchmark
from tests.bench.workloads import POOLS, WORKLOADS, Eager, Workload
from tests.e2e import notebook as notebooks
from tests.e2e import stock
from tests.e2e import world as worlds
from tests.e2e.lab import Link

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.notebook import Notebook
    from tests.e2e.world import World

WAN = Link(delay_ms=10, rate_mbit=1000)

PATIENCE = session.PATIENCE + 30

LEAST_MINIMUM = 10_000_000
"""Bytes that have to cross at least, so that control messages do not decide the result."""

MEAN_OVER_MINIMUM = 1.05
WORST_OVER_MINIMUM = 1.25
MESH_OVER_PAYLOAD = 1.1

COLUMNS = ("minimum", "stock", "estimated", "fed", "mesh", "wire")


def rows(workloads: list[Workload], with_stock: bool) -> Iterator[dict[str, Any]]:
    """Measure workloads, a row each."""
    for module in (recording, session, stock, workloads_of_benchmark):
        notebooks.register(module)
    stock_bytes: dict[str, int] = {}
    if with_stock:
        with _world() as world:
            book = stock.start(world)
            book(session.prepare, False)
            stock_bytes = {each.name: _stock_bytes(each, book) for each in workloads}
    # Stock Dask's heartbeats would count as the mesh's if it still ran.
    with _world() as world:
        world.up()
        book = world.notebook()
        book.connect()
        book(session.prepare, True)
        for workload in workloads:
            yield _row(workload, world, book, stock_bytes.get(workload.name))


@contextmanager
def _world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="fed-bench-") as name:
        data, state = Path(name) / "data", Path(name) / "world"
        for folder in (*(data / tree for tree in (*POOLS, "shared")), state):
            folder.mkdir(parents=True)
        with worlds.running(state, data, names=POOLS, wan=WAN) as world:
            yield world


def _stock_bytes(workload: Workload, book: Notebook) -> int:
    print(f"stock Dask: {workload.name}", file=sys.stderr, flush=True)
    before: int = book(session.crossed)
    book(session.compute, workload, False, patience=PATIENCE)
    after: int = book(session.crossed)
    book(session.forget)
    return after - before


def _row(
    workload: Workload, world: World, book: Notebook, stock_bytes: int | None
) -> dict[str, Any]:
    book(session.recorded)
    before = book(session.crossed)
    mesh_before = _mesh_bytes(world)
    world.lab.reset()
    book(session.compute, workload, True, patience=PATIENCE)
    wire_bytes = world.lab.counters().total_bytes
    mesh_bytes = _mesh_bytes(world) - mesh_before
    fed_bytes = book(session.crossed) - before
    ran = {key: oracle.Ran(*values) for key, values in book(session.recorded).items()}
    estimated_bytes = book(session.estimated)
    result = book(session.result)
    expected = workload.build(Eager(lambda _pool: nullcontext()))
    return {
        "name": workload.name,
        "pools": len(workload.pools),
        "minimum_bytes": oracle.minimum(ran, workload.pools, book(session.shards)),
        "stock_bytes": stock_bytes,
        "estimated_bytes": estimated_bytes,
        "fed_bytes": fed_bytes,
        "mesh_bytes": mesh_bytes,
        "wire_bytes": wire_bytes,
        "correct": bool(np.allclose(np.asarray(result), np.asarray(expected), 1e-3, 1e-4)),
    }


def _mesh_bytes(world: World) -> int:
    """Return the bytes of the datagrams that all members have sent."""
    members = world.status()["members"]
    return sum(peer["sent_bytes"] for member in members for peer in member["peers"])


def judge(table: list[dict[str, Any]]) -> list[str]:
    """Return what is not as it should be, a sentence each."""
    found = []
    for row in table:
        name = row["name"]
        if not row["correct"]:
            found.append(f"{name}: the result is not that of plain xarray or pandas")
        if row["minimum_bytes"] < LEAST_MINIMUM:
            found.append(f"{name}: less than {LEAST_MINIMUM / 1e6:.0f} MB have to cross")
        if row["fed_bytes"] > WORST_OVER_MINIMUM * row["minimum_bytes"]:
            found.append(f"{name}: fed ships more than {WORST_OVER_MINIMUM} of the minimum")
    if mean(table, "fed_bytes", "minimum_bytes") > MEAN_OVER_MINIMUM:
        found.append(f"fed ships more than {MEAN_OVER_MINIMUM} of the minimum in the mean")
    if mean(table, "mesh_bytes", "fed_bytes") > MESH_OVER_PAYLOAD:
        found.append(f"the mesh carries more than {MESH_OVER_PAYLOAD} of the payload in the mean")
    return found


def mean(table: list[dict[str, Any]], over: str, under: str) -> float:
    """Return the geometric mean of a ratio."""
    ratios = [row[over] / max(row[under], 1) for row in table]
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def main() -> int:
    """Print a table, and save it as JSON."""
    parser = command.parser(__doc__)
    parser.add_argument("names", nargs="*", help="parts of names of workloads; all by default")
    parser.add_argument("--fed-only", action="store_true", help="leave stock Dask out")
    given = parser.parse_args()
    chosen = [w for w in WORKLOADS if not given.names or any(n in w.name for n in given.names)]
    heads = " ".join(f"{name:>10}" for name in COLUMNS)
    print(f"{'workload (MB)':24} {heads} {'fed/min':>8} {'mesh/fed':>8}  correct", flush=True)
    table = []
    for row in rows(chosen, with_stock=not given.fed_only):
        table.append(row)
        # At once: what was measured is kept when a later workload fails.
        command.save(given.output, {"workloads": table})
        sizes = " ".join(f"{(row[f'{name}_bytes'] or 0) / 1e6:10.2f}" for name in COLUMNS)
        ratios = (
            row["fed_bytes"] / max(row["minimum_bytes"], 1),
            row["mesh_bytes"] / max(row["fed_bytes"], 1),
        )
        numbers = " ".join(f"{ratio:8.3f}" for ratio in ratios)
        print(f"{row['name']:24} {sizes} {numbers}  {row['correct']}", flush=True)
    ratios = (mean(table, "fed_bytes", "minimum_bytes"), mean(table, "mesh_bytes", "fed_bytes"))
    print(f"{'geometric mean':24} {'':65} {ratios[0]:8.3f} {ratios[1]:8.3f}")
    problems = judge(table)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
