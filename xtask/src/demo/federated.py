"""The calculations in the federation: ``federated.py EXAMPLE RESULTS WORKERS``.

Runs in the operator's host, which sees no data. Writes each result to ``RESULTS/NAME.nc``.
"""

import runpy
import sys
import time
from pathlib import Path
from typing import Any

import conversation

import fed

WARM_UP = ("/data/ecmwf/warm_up.nc", "/data/eumetsat/warm_up.nc")


def warm_up(client: fed.FedClient, workers: int) -> None:
    """Check that all workers are there, and compute on tiny data."""
    known = len(client.scheduler_info(n_workers=-1)["workers"])
    if known != workers:
        sys.exit(f"fed up is done, but the scheduler knows {known} workers instead of {workers}")
    first, second = (fed.open_dataset(path).air_temperature for path in WARM_UP)
    (first.mean("realization") - second.mean("realization")).compute()


def since(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return what the scheduler has counted meanwhile."""
    per_site = {
        site: count - before["tasks_per_site"].get(site, 0)
        for site, count in after["tasks_per_site"].items()
    }
    counted = ("foreign_reads", "cross_pool_steals")
    return {"tasks_per_site": per_site} | {name: after[name] - before[name] for name in counted}


def main() -> None:
    """Answer each name of a calculation with its seconds and counts."""
    example, results, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    calculations = runpy.run_path(example)
    with fed.connect() as client:
        warm_up(client, workers)

        def calculate(name: str) -> dict[str, Any]:
            before = fed.stats()
            start = time.perf_counter()
            result = calculations[name]().compute()
            seconds = time.perf_counter() - start
            counts = since(before, fed.stats())
            result.reset_coords(drop=True).to_netcdf(results / f"{name}.nc")
            return {"seconds": seconds} | counts

        conversation.serve(calculate)


if __name__ == "__main__":
    main()
