"""Sites behind NATs and firewalls: who reaches whom straight, who is relayed, and that it works.

The edges are nftables rules at the sites' hosts. A `restricted` one keeps ports and lets in what
answers; a `symmetric` one besides gives each destination a port of its own, at random; and one lets
no UDP pass.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e import edge
from tests.e2e import notebook as notebooks
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from tests.e2e.world import World

FILTER = f"""
  chain input {{
    {edge.INPUT}
    iif lo accept
    meta l4proto udp ct state new drop
  }}
"""
TRANSLATION = f"""
  chain postrouting {{
    {edge.POSTROUTING}
    meta l4proto udp masquerade random,fully-random
  }}
"""
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
EDGES = {
    "open": "",
    "restricted": FILTER,
    "symmetric": FILTER + TRANSLATION,
    "without UDP": SILENCE,
}

BYTES = 200_000


def put_behind(world: World, site: str, name: str) -> None:
    """Put a site's host behind an edge, instead of the one it had."""
    edge.put(world.lab[site], EDGES[name])


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


@pytest.mark.parametrize(
    ("ecmwf", "eumetsat", "relay"),
    [
        ("restricted", "restricted", None),
        ("symmetric", "open", None),
        ("symmetric", "restricted", "operator"),
    ],
)
def test_sites_behind_nats_reach_each_other(
    world: World, ecmwf: str, eumetsat: str, relay: str | None
) -> None:
    put_behind(world, "ecmwf", ecmwf)
    put_behind(world, "eumetsat", eumetsat)
    world.up(workers=1)
    until(lambda: _between_sites(world) == [relay, relay])
    to_operator = {pair: via for pair, via in relays(world).items() if "operator" in pair}
    assert set(to_operator.values()) == {None}, to_operator
    text = world.fed("status").stdout
    assert ("relayed via operator" in text) == (relay is not None), text
    with world.notebook() as notebook:
        notebook.connect()
        assert notebook(_crossing, BYTES) == BYTES


def test_a_relayed_pair_goes_straight_once_it_can_and_back(world: World) -> None:
    for site in ("ecmwf", "eumetsat"):
        put_behind(world, site, "symmetric")
    world.up(workers=1)
    until(lambda: _between_sites(world) == ["operator", "operator"])
    with world.notebook() as notebook:
        notebook.connect()
        put_behind(world, "eumetsat", "open")
        until(lambda: _between_sites(world) == [None, None])
        assert notebook(_crossing, BYTES) == BYTES
        world.lab.cut("ecmwf", "eumetsat", "udp")
        # A path in use is given up within seconds, and the workers never notice.
        assert notebook(_crossing, BYTES) == BYTES
        until(lambda: _between_sites(world) == ["operator", "operator"])


def test_a_site_without_udp_is_reached_over_tls(world: World) -> None:
    put_behind(world, "ecmwf", "without UDP")
    world.up(workers=1)
    text = world.fed("status").stdout
    assert "direct, over TLS" in text, text
    # The others have UDP, and use it.
    assert re.search(r"tunnel to eumetsat +direct, [\d\[]", text), text
    with world.notebook() as notebook:
        notebook.connect()
        assert notebook(_crossing, BYTES) == BYTES
        # Once UDP passes, it is used.
        put_behind(world, "ecmwf", "open")
        until(lambda: "over TLS" not in world.fed("status").stdout)
        assert notebook(_crossing, BYTES) == BYTES


def _between_sites(world: World) -> list[str | None]:
    found = relays(world)
    return [found["ecmwf", "eumetsat"], found["eumetsat", "ecmwf"]]
