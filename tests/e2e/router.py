"""A site on a private network behind a router that translates its addresses.

The router is the site's host in the lab, with the address that the others know. Behind it, in
a network namespace of its own, the site's programs have a private address and no other; what
the router does with their packets are nftables rules (`tests.e2e.edge`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from tests.e2e import edge
from tests.e2e.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.e2e.lab import Host

Kind = Literal["independent", "symmetric", "forwarding"]
"""What a router does with UDP: `RULES` has the rules, with the router's `address`."""

OUTSIDE = "wan0"
PRIVATE = "10.71.0.2"

NAMESPACE = "/run/netns/site"
NETWORK = f"""
set -e
ip netns add site
ip link add lan type veth peer name eth0 netns site
ip addr add 10.71.0.1/24 dev lan
ip link set lan up
ip -n site addr add {PRIVATE}/24 dev eth0
ip -n site link set lo up
ip -n site link set eth0 up
ip -n site route add default via 10.71.0.1
# As over a wire: what crosses it is whole packets with their checksums (docs/mesh.md, Limits).
ip netns exec site ethtool -K eth0 tx off
echo 1 > /proc/sys/net/ipv4/ip_forward
"""

FILTER = f"""
  chain input {{
    {edge.INPUT}
    iif {OUTSIDE} meta l4proto udp drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iif lan accept
    ct state established,related accept
    ct status dnat accept
  }}
"""
RULES: dict[Kind, str] = {
    # One port for all destinations, another one than at home. Only what answers is let in.
    "independent": "meta l4proto udp snat ip to {address}:61000",
    # A port for each destination, at random.
    "symmetric": "meta l4proto udp snat ip to {address} fully-random",
    # The same port as at home, at which everything is let in.
    "forwarding": "meta l4proto udp snat ip to {address}",
}


def build(router: Host, kind: Kind) -> Host:
    """Make the private network behind a host of the lab; returns the host that is in it.

    The agent's TCP port is forwarded.
    """
    done = router.run(["sh", "-c", NETWORK], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    put(router, kind)
    return replace(router, network=NAMESPACE)


def put(router: Host, kind: Kind) -> None:
    """Have the router do this from now on."""
    udp = f"iif {OUTSIDE} meta l4proto udp dnat ip to {PRIVATE}" if kind == "forwarding" else ""
    translation = f"""
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    iif {OUTSIDE} tcp dport {edge.AGENT} dnat ip to {PRIVATE}
    {udp}
  }}
  chain postrouting {{
    {edge.POSTROUTING}
    oif {OUTSIDE} {RULES[kind].format(address=router.addr4)}
    oif {OUTSIDE} snat ip to {router.addr4}
  }}
"""
    edge.put(router, FILTER + translation)
