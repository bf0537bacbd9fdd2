"""Measures what the workloads ship between pools: with fed, and with stock Dask.

    python -m tests.bench.measuring [--output FILE] [NAME …]

Payload is counted where it leaves a worker, shards of peer-to-peer shuffles included. With stock
Dask the sources are pinned too, by annotations and with optimisations that would lose them
switched off, so that both compute the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

import fed
from fed.ledger import OPERATION, count_outgoing
from tests.bench.workloads import POOLS, WORKLOADS, Eager, Source, Workload
from tests.python import federations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distributed import Client

PATIENCE = 300.0
"""Seconds that one workload may take."""


def start_counting(dask_worker: Any) -> None:
    """Make a stock worker count what it sends; for ``client.run``."""
    count_outgoing(dask_worker)


def read_counts(dask_worker: Any) -> tuple[str, list[Any]]:
    """Return the pool of a worker and what it has sent; for ``client.run``."""
    (pool,) = [name for name in dask_worker.state.total_resources if name.startswith("pool-")]
    return pool, dask_worker.handlers[OPERATION]()


def crossed(client: Client) -> int:
    """Return the bytes that have crossed between pools so far."""
    reports = client.run(read_counts)
    pools = {address: pool for address, (pool, _) in reports.items()}
    return sum(
        nbytes
        for address, (_, report) in reports.items()
        for peer, _name, nbytes in report
        if peer in pools and pools[peer] != pools[address]
    )


def annotated(pool: str) -> Any:
    """Pin as stock Dask can."""
    return dask.annotate(resources={f"pool-{pool}": 0})


def run(client: Client, workload: Workload, source: Source) -> tuple[Any, int]:
    """Compute a workload, and return the result and the bytes that crossed for it."""
    method = "p2p" if workload.peer_to_peer else "tasks"
    with dask.config.set({"array.rechunk.method": method, "dataframe.shuffle.method": "p2p"}):
        before = crossed(client)
        result = client.compute(workload.build(source)).result(timeout=PATIENCE)
        return result, crossed(client) - before


def rows(workloads: list[Workload]) -> Iterator[dict[str, Any]]:
    """Measure workloads, a row each."""
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / kind for kind in ("fed", "stock")]
        for folder in folders:
            folder.mkdir()
        with (
            federations.running(folders[0], folders[0], with_fed=True, pools=POOLS) as ours,
            federations.running(folders[1], folders[1], with_fed=False, pools=POOLS) as stock,
        ):
            with stock.client() as client:
                client.run(start_counting)
            for workload in workloads:
                with ours.client() as client:
                    result, fed_bytes = run(client, workload, Source(fed.pool))
                    estimated = fed.traffic()["computations"][-1]["estimated"]
                with stock.client() as client:
                    client.run_on_scheduler(_keep_annotations)
                    stock_bytes = run(client, workload, Source(annotated))[1]
                expected = workload.build(Eager(lambda _pool: nullcontext()))
                yield {
                    "name": workload.name,
                    "pools": len(workload.pools),
                    "stock_bytes": stock_bytes,
                    "estimated_bytes": sum(nbytes for *_, nbytes in estimated),
                    "fed_bytes": fed_bytes,
                    "correct": bool(
                        np.allclose(np.asarray(result), np.asarray(expected), 1e-3, 1e-4)
                    ),
                }


def _keep_annotations() -> None:
    dask.config.set({"optimization.fuse.active": False, "optimization.annotations.fuse": False})


def main() -> int:
    """Print a table, and save it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names of workloads; all by default")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    chosen = [w for w in WORKLOADS if not given.names or any(n in w.name for n in given.names)]
    print(f"{'workload':24} {'stock MB':>10} {'estimate':>10} {'fed MB':>10}  correct")
    table = []
    for row in rows(chosen):
        table.append(row)
        sizes = [row[key] / 1e6 for key in ("stock_bytes", "estimated_bytes", "fed_bytes")]
        numbers = " ".join(f"{size:10.2f}" for size in sizes)
        print(f"{row['name']:24} {numbers}  {row['correct']}", flush=True)
    if given.output:
        given.output.write_text(json.dumps({"workloads": table}, indent=1))
    return 0 if all(row["correct"] for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
