"""Federations that come and go leave nothing in an agent that grows."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.leftovers import Before
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.world import World

LONG = "FED_TEST_LONG"
"""Environment variable that ``cargo xtask test --long`` sets."""
ROUNDS = 200 if LONG in os.environ else 4
RECORD = "FED_ROUNDS_RECORD"
"""Environment variable: a file to which each round appends what the agents use then, as JSON."""
WARM_UP = 2
"""Rounds after which connections, threads and the allocator's arenas are as they will stay."""
MEMORY = 4 << 20
"""Bytes that an agent's resident memory may be larger than after the warm-up: an allocator's own
ups and downs, and a fifth of what 100 KiB per round would make of the long form."""


@dataclass(frozen=True)
class Use:
    """What an agent uses."""

    descriptors: int
    threads: int
    memory: int
    """Resident memory, in bytes."""
    files: int
    """In its state folder."""
    mounts: int
    """In its host."""

    @classmethod
    def of(cls, world: World, name: str) -> Use:
        (pid,) = world.pids(name, r"fed agent run")
        process = Path(f"/proc/{pid}")
        status = dict(
            line.split(":\t", 1) for line in (process / "status").read_text().splitlines()
        )
        return cls(
            descriptors=len(list((process / "fd").iterdir())),
            threads=int(status["Threads"]),
            memory=int(status["VmRSS"].removesuffix(" kB")) << 10,
            files=sum(len(files) for _, _, files in os.walk(world.sites[name].state)),
            mounts=len((process / "mountinfo").read_text().splitlines()),
        )

    def grown_from(self, earlier: Use) -> list[str]:
        """Return what there is more of."""
        rooms = {"descriptors": 0, "threads": 0, "memory": MEMORY, "files": 0, "mounts": 0}
        return [
            f"{what}: {getattr(earlier, what)}, then {getattr(self, what)}"
            for what, room in rooms.items()
            if getattr(self, what) > getattr(earlier, what) + room
        ]


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_rounds_of_up_and_down_make_nothing_grow(world: World) -> None:
    before = Before.of(world)
    for _ in range(WARM_UP):
        _round(world)
    before.clean()
    earlier = {name: Use.of(world, name) for name in world.sites}
    files = _files(world)
    for _ in range(ROUNDS):
        _round(world)
    before.clean()
    for name, use in earlier.items():
        # A connection that the operator has closed is closed at the agent a moment later.
        until(lambda name=name, use=use: Use.of(world, name).grown_from(use), lambda more: not more)  # type: ignore[misc]
    assert _files(world) == files


def _round(world: World) -> None:
    world.up(workers=1)
    world.fed("down")
    if path := os.environ.get(RECORD):
        uses = {name: asdict(Use.of(world, name)) for name in world.sites}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(uses) + "\n")


def _files(world: World) -> list[str]:
    return sorted(str(path) for path in world.state.rglob("*"))
