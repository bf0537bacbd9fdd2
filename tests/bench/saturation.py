"""Short tasks per second at a site that is far away, beside the same site next door.

    python -m tests.bench.saturation [--output FILE]

A federation of one site, whose distance is set by the WAN emulator while it runs: the scheduler has
to find out by itself how many tasks its workers must be sent so that they stay busy.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import command
from tests.e2e import world as worlds
from tests.e2e.lab import Link
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.notebook import Notebook

SITE = "north"
TASKS = 2000
TASK_SECONDS = 0.005
ROUND_TRIPS_MS = (80, 40, 0)
"""From far to near: a shorter round trip is believed at once, a longer one after some rounds."""

LEAST_RATIO = 0.8
LEAST_BUSY = 0.5
"""Part of the time that workers next door have to be busy for the ratios to tell anything."""

PATIENCE = 300.0


def known_round_trip(site: str) -> float:
    """Return what the scheduler takes the round trip to a site for, in seconds."""
    from distributed import get_client

    client = get_client()
    for link in client.sync(client.scheduler.fed_links):
        if (link["source"], link["destination"]) == ("", site) and link["rtt"] is not None:
            return float(link["rtt"])
    return float("inf")


def rate(site: str, tasks: int, seconds: float) -> float:
    """Return the tasks per second of many short ones at a site."""
    from distributed import get_client, wait

    client = get_client()
    start = time.perf_counter()
    futures = client.map(time.sleep, [seconds] * tasks, pure=False, resources={f"pool-{site}": 0})
    wait(futures)
    return tasks / (time.perf_counter() - start)


def measure(world: worlds.World, book: Notebook, milliseconds: int) -> dict[str, Any]:
    """Measure at one distance, once the scheduler knows it."""
    world.lab.change_link("operator", SITE, Link(delay_ms=milliseconds / 2))
    longest = milliseconds / 1000 + 0.03  # of which the programs' own time
    until(lambda: book(known_round_trip, SITE) <= longest, patience=PATIENCE)
    known = book(known_round_trip, SITE)
    book(rate, SITE, 100, TASK_SECONDS, patience=PATIENCE)
    found = book(rate, SITE, TASKS, TASK_SECONDS, patience=PATIENCE)
    return {"round_trip_ms": milliseconds, "measured_ms": 1000 * known, "tasks_per_second": found}


def rows() -> list[dict[str, Any]]:
    """Measure at all distances."""
    with tempfile.TemporaryDirectory(prefix="fed-bench-") as name:
        data, state = Path(name) / "data", Path(name) / "world"
        for folder in (data / SITE, data / "shared", state):
            folder.mkdir(parents=True)
        wan = Link(delay_ms=ROUND_TRIPS_MS[0] / 2, rate_mbit=1000)
        with worlds.running(state, data, names=(SITE,), wan=wan) as world:
            world.up()
            book = world.notebook()
            book.connect()
            found = [measure(world, book, milliseconds) for milliseconds in ROUND_TRIPS_MS]
    near = found[-1]["tasks_per_second"]
    return [{**row, "ratio": row["tasks_per_second"] / near} for row in found]


def main() -> int:
    """Print a table, and save it as JSON."""
    parser = command.parser(__doc__)
    given = parser.parse_args()
    table = rows()
    ideal = worlds.WORKERS / TASK_SECONDS
    print(f"{'round trip, ms':>15} {'as measured':>12} {'rate over that at 0':>20} {'busy':>8}")
    for row in table:
        print(f"{row['round_trip_ms']:15} {row['measured_ms']:12.1f} {row['ratio']:20.3f}"
              f" {row['tasks_per_second'] / ideal:8.3f}")  # fmt: skip
    command.save(given.output, {"runs": table})
    if table[-1]["tasks_per_second"] < LEAST_BUSY * ideal:
        print("the machine is too busy: its workers idle next door too, so that the ratios tell"
              " nothing", file=sys.stderr)  # fmt: skip
        return 1
    return 0 if all(row["ratio"] >= LEAST_RATIO for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
