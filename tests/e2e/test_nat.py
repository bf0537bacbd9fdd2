"""Sites behind NATs and firewalls: who reaches whom straight, who is relayed, and that it works.

A site behind a router (`tests.e2e.router`) has a private address, and its datagrams come from
a port that only those know who see them: two such sites find each other by what they are told.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e import edge, router
from tests.e2e import notebook as notebooks
from tests.e2e import world as worlds
from tests.e2e.waiting import until
from tests.e2e.world import SITES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.world import World

SILENCE = f"""
  chain input {{
    {edge.INPUT}
    iif != lo meta l4proto udp drop
  }}
  chain output {{
    {edge.OUTPUT}
    oif != lo meta l4proto udp drop
  }}
"""
DEAF_TO_IPV6 = f"""
  chain input {{
    {edge.INPUT}
    iif != lo meta nfproto ipv6 drop
  }}
"""
BYTES = 200_000
PORT = 4789
"""Where the operator listens for a site that dials."""


def relays(world: World) -> dict[tuple[str, str], str | None]:
    """Return by way of whom each member reaches each other one."""
    return {
        (member["name"], peer["name"]): peer["relay"]
        for member in world.status()["members"]
        for peer in member["peers"]
    }


def _crossing(size: int) -> int:
    """Make bytes at one site, and count them at the other."""
    from distributed import get_client

    client = get_client()
    made = client.submit(bytes, size, pure=False, resources={"pool-ecmwf": 0})
    return int(client.submit(len, made, pure=False, resources={"pool-eumetsat": 0}).result())


@pytest.fixture(autouse=True)
def _registered(request: pytest.FixtureRequest) -> None:
    notebooks.register(request.module)


@pytest.fixture
def routed(tmp_path: Path, data: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world of which some sites are behind routers."""
    routers, dialling = request.param
    changes = {site: {"dial": [f"operator:{PORT}"]} for site in dialling}
    with worlds.running(tmp_path, data, changes=changes, routers=routers) as world:
        yield world


@pytest.mark.parametrize(
    ("routed", "relay"),
    [
        (({"ecmwf": "independent", "eumetsat": "independent"}, ["ecmwf"]), None),
        (({"ecmwf": "symmetric"}, []), None),
        (({"ecmwf": "symmetric", "eumetsat": "independent"}, []), "operator"),
    ],
    indirect=["routed"],
    ids=["independent", "symmetric-open", "symmetric-independent"],
)
def test_sites_behind_nats_reach_each_other(routed: World, relay: str | None) -> None:
    routed.up(workers=1)
    until(lambda: _between_sites(routed) == [relay, relay])
    to_operator = {pair: via for pair, via in relays(routed).items() if "operator" in pair}
    assert set(to_operator.values()) == {None}, to_operator
    text = routed.fed("status").stdout
    assert ("relayed via operator" in text) == (relay is not None), text
    assert "over TLS" not in text, text
    with routed.notebook() as notebook:
        notebook.connect()
        assert notebook(_crossing, BYTES) == BYTES
    assert _between_sites(routed) == [relay, relay]
    if relay is not None:
        assert min(_relayed(routed)) > 0, _relayed(routed)


@pytest.mark.parametrize("routed", [(dict.fromkeys(SITES, "symmetric"), [])], indirect=True)
def test_a_relayed_pair_goes_straight_once_it_can_and_back(routed: World) -> None:
    routed.up(workers=1)
    until(lambda: _between_sites(routed) == ["operator", "operator"])
    with routed.notebook() as notebook:
        notebook.connect()
        router.put(routed.lab["eumetsat"], "forwarding")
        until(lambda: _between_sites(routed) == [None, None])
        assert notebook(_crossing, BYTES) == BYTES
        routed.lab.cut("ecmwf", "eumetsat", "udp")
        # A path in use is given up within seconds, and the workers never notice.
        assert notebook(_crossing, BYTES) == BYTES
        until(lambda: _between_sites(routed) == ["operator", "operator"])


def test_a_site_without_udp_is_reached_over_tls(world: World) -> None:
    edge.put(world.lab["ecmwf"], SILENCE)
    world.up(workers=1)
    text = world.fed("status").stdout
    assert "direct, over TLS" in text, text
    # The others have UDP, and use it.
    assert re.search(r"tunnel to eumetsat +direct, [\d\[]", text), text
    with world.notebook() as notebook:
        notebook.connect()
        assert notebook(_crossing, BYTES) == BYTES
        # Once UDP passes, it is used.
        edge.put(world.lab["ecmwf"], "")
        until(lambda: "over TLS" not in world.fed("status").stdout)
        assert notebook(_crossing, BYTES) == BYTES


def test_where_ipv6_is_dead_nobody_notices(world: World) -> None:
    """Every host has a name with an address of each family, and answers to IPv4 alone."""
    for host in ("operator", *SITES):
        edge.put(world.lab[host], DEAF_TO_IPV6)
    world.up(workers=1)
    assert "over TLS" not in world.fed("status").stdout
    assert set(relays(world).values()) == {None}
    with world.notebook() as notebook:
        notebook.connect()
        assert notebook(_crossing, BYTES) == BYTES


def _relayed(world: World) -> list[int]:
    """Return the bytes that the operator has passed on for each site."""
    (operator,) = (each for each in world.status()["members"] if each["name"] == "operator")
    return [peer["relayed_bytes"] for peer in operator["peers"]]


def _between_sites(world: World) -> list[str | None]:
    found = relays(world)
    return [found["ecmwf", "eumetsat"], found["eumetsat", "ecmwf"]]
