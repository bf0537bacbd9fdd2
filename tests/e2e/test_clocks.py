"""Clocks that jump: leases are counted on the monotonic clock, so nothing of a federation ends."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tests.e2e import notebook as notebooks
from tests.e2e.leftovers import Before

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.e2e.world import Site, World

LEASE = 5.0
DAYS = 86400
OFFSET = "TEST_CLOCK_OFFSET"
SHIM = f"""
/* The wall clock of a program: the kernel's, and the seconds that a file holds. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {{
    int result = syscall(SYS_clock_gettime, clock, now);
    const char *path = getenv("{OFFSET}");
    if (result == 0 && clock == CLOCK_REALTIME && path != NULL) {{
        FILE *file = fopen(path, "r");
        long seconds = 0;
        if (file != NULL) {{
            if (fscanf(file, "%ld", &seconds) == 1)
                now->tv_sec += seconds;
            fclose(file);
        }}
    }}
    return result;
}}
"""


class Clock:
    """The wall clock of the programs that run with `environment`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.library = folder / "clock.so"
        self.offset = folder / f"{name}.offset"
        self.jump(0)
        if not self.library.exists():
            build = ["cc", "-shared", "-fPIC", "-o", str(self.library), "-x", "c", "-"]
            subprocess.run(build, input=SHIM, text=True, check=True)

    def jump(self, seconds: int) -> None:
        """Set how far it is ahead of the machine's."""
        fresh = self.offset.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self.offset)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), OFFSET: str(self.offset)}


def _compute() -> int:
    from distributed import get_client

    client = get_client()
    parts = [client.submit(abs, 1, resources={f"pool-{p}": 0}) for p in ("ecmwf", "eumetsat")]
    return sum(client.gather(parts))


def _last_call(site: Site) -> datetime:
    return datetime.fromisoformat(site.audit[-1]["time"])


def test_leases_do_not_heed_clocks_that_jump(
    world: World, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    notebooks.register(request.module)
    sites = world.sites
    clocks = {name: Clock(tmp_path, name) for name in ("operator", *sites)}
    for name, site in sites.items():
        site.end()
        site.policy = '[policy]\nlifetime = "8h"'
        site.configure()
        site.start(**clocks[name].environment)
    before = Before.of(world)
    up = world.up_in_foreground(
        "--lease", f"{LEASE:g}s", workers=1, environment=clocks["operator"].environment
    )
    clocks["operator"].jump(-3 * DAYS)
    clocks["ecmwf"].jump(400 * DAYS)
    clocks["eumetsat"].jump(-400 * DAYS)
    # A new agent does not take the federation for one that has run for 400 days.
    sites["ecmwf"].end()
    sites["ecmwf"].start(**clocks["ecmwf"].environment)
    with world.notebook() as notebook:
        notebook.connect()
        # Time is what is to pass here: more than two leases of it.
        time.sleep(2.2 * LEASE)
        assert notebook(_compute) == 2
    assert up.poll() is None
    # The agents do see other days: their audit logs tell.
    now = datetime.now(UTC)
    assert (_last_call(sites["ecmwf"]) - now).days > 300
    assert (now - _last_call(sites["eumetsat"])).days > 300
    assert [member["problem"] for member in world.status()["members"]] == [None] * 3
    world.fed("down")
    up.communicate(timeout=60)
    sites["ecmwf"].end()
    before.clean()
