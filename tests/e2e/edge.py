"""What stands between a host and the network: nftables rules at the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.e2e.lab import Host

NFT = "/usr/sbin/nft"

INPUT = "type filter hook input priority filter; policy accept;"
OUTPUT = "type filter hook output priority filter; policy accept;"
POSTROUTING = "type nat hook postrouting priority srcnat; policy accept;"

AGENT = 4788
"""The TCP port of agents."""


def put(host: Host, chains: str) -> None:
    """Put chains of rules at a host, instead of those that it had."""
    rules = f"table inet edge\ndelete table inet edge\ntable inet edge {{\n{chains}\n}}\n"
    done = host.run([NFT, "-f", "-"], input=rules, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def deaf_to(*others: Host) -> str:
    """Return rules that let nothing in from other hosts except to and from their agents."""
    silenced = "\n".join(
        f"{family} saddr {address} meta l4proto {{ udp, tcp }} drop"
        for other in others
        for family, address in (("ip", other.addr4), ("ip6", other.addr6))
    )
    rules = f"tcp dport {AGENT} accept\ntcp sport {AGENT} accept\n{silenced}"
    return f"chain input {{\n{INPUT}\n{rules}\n}}"
