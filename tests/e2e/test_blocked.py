"""What firewalls stop is found before workers start: which pair, and in which direction.

The mesh goes over TLS where UDP does not pass, so both are stopped here; only agents are reached.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e import edge
from tests.e2e.leftovers import Before

if TYPE_CHECKING:
    from tests.e2e.world import World

BLOCKED = 8
"""The exit code."""


@dataclass(frozen=True)
class Case:
    """A way in which UDP is blocked.

    Parameters
    ----------
    cuts
        Pairs ``(from, to)`` of hosts between which nothing of the mesh passes in this direction.
    told
        What `fed up` says, as regular expressions, in this order.
    """

    cuts: tuple[tuple[str, str], ...]
    told: tuple[str, ...]


CASES = {
    "one direction each": Case(
        (("ecmwf", "eumetsat"), ("eumetsat", "operator")),
        (
            (
                r"no datagram from ecmwf reaches eumetsat, while those from eumetsat reach ecmwf: "
                r"allow UDP from ecmwf to [\da-f.:]+ \(port \d+ in this federation\)"
            ),
            (
                r"no datagram from eumetsat reaches operator, while those from operator reach "
                r"eumetsat: allow UDP from eumetsat to [\da-f.:]+ \(port"
            ),
        ),
    ),
    "two sites in both directions, and the operator": Case(
        (("ecmwf", "eumetsat"), ("eumetsat", "ecmwf"), ("operator", "ecmwf")),
        (
            (
                r"no datagram passes between ecmwf and eumetsat, in either direction: "
                r"allow UDP from ecmwf to [\da-f.:]+ \(port \d+ in this federation\), "
                r"and allow UDP from eumetsat to"
            ),
            (
                r"no datagram from operator reaches ecmwf, while those from ecmwf reach operator: "
                r"allow UDP from operator to"
            ),
        ),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_blocked_udp_is_told_by_pair_and_direction(world: World, case: Case) -> None:
    before = Before.of(world)
    hosts = {b: [world.lab[a] for a, other in case.cuts if other == b] for _, b in case.cuts}
    for host, unheard in hosts.items():
        edge.put(world.lab[host], edge.deaf_to(*unheard))
    refused = world.fed(*world.up_arguments(workers=1), code=BLOCKED).stderr
    (error,) = (line for line in refused.splitlines() if line.startswith("error: "))
    assert re.fullmatch("error: " + "; ".join(f"{each}.*" for each in case.told), error)
    assert "starting workers" not in refused
    assert "workers started" not in refused
    before.clean()
    # The control connections were whole all the time: nothing else was wrong.
    for host in hosts:
        edge.put(world.lab[host], "")
    world.up(workers=1)
    world.fed("down")
    before.clean()
