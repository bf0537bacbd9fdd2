"""What a federation leaves behind on the hosts of a world: there must be nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.programs import TEMPORARY
from tests.e2e.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.e2e.lab import Host
    from tests.e2e.world import World

OPERATOR = "operator"
LISTENING = "0A"
SCRATCH = ("/run", "/dev/shm", TEMPORARY)
"""Folders that each host has of its own."""


@dataclass
class Before:
    """How a world stood before a federation came up.

    Take it when the agents run; what they and the operator keep for good is there then.
    """

    world: World
    sockets: dict[str, set[str]]
    scratch: dict[str, set[str]]

    @classmethod
    def of(cls, world: World) -> Before:
        world.lab.snapshot()
        hosts = world.lab.hosts
        return cls(
            world,
            {name: _sockets(host) for name, host in hosts.items()},
            {name: _scratch(host) for name, host in hosts.items()},
        )

    def left(self, hosts: Iterable[str], *, files: bool = True) -> list[str]:
        """Return what is left on some hosts, a line each.

        Parameters
        ----------
        hosts
            Their names.
        files
            Whether files count too; without, processes, namespaces, devices and sockets.
        """
        lines = self._left_running(hosts)
        for name in hosts:
            host = self.world.lab[name]
            lines += [f"socket {each} on {name}" for each in _sockets(host) - self.sockets[name]]
            if files:
                lines += [f"file {each}" for each in self._files(name)]
        return lines

    def _left_running(self, hosts: Iterable[str]) -> list[str]:
        """Return the lab's own findings for these hosts.

        The lab looks at all hosts at once, and names processes by their id.
        """
        everything = self.world.lab.leftovers()
        if set(hosts) == set(self.world.lab.hosts):
            return everything
        own = {process.pid for name in hosts for process in self.world.lab.processes(name)}
        places = tuple(f" in {name}" for name in hosts)
        return [line for line in everything if own & set(_numbers(line)) or line.endswith(places)]

    def _files(self, name: str) -> list[Path]:
        root = self.world.state if name == OPERATOR else self.world.sites[name].state
        scratch = _scratch(self.world.lab[name]) - self.scratch[name]
        # Unlike a glob, a walk goes on where files vanish under it.
        kept = [
            Path(folder, name)
            for folder, folders, files in os.walk(root / "federations")
            for name in (*folders, *files)
        ]
        return [*kept, *(self.world.lab[name].path(each) for each in scratch)]

    def clean(self, *hosts: str, files: bool = True, patience: float = PATIENCE) -> None:
        """Wait until nothing is left on some hosts, on all of them by default."""
        chosen = hosts or tuple(self.world.lab.hosts)
        until(lambda: self.left(chosen, files=files), lambda left: not left, patience=patience)


def _numbers(line: str) -> Iterable[int]:
    """Return the process ids that a line of the lab may speak of."""
    return (int(word) for word in line.replace("(", " ").split() if word.isdigit())


def _sockets(host: Host) -> set[str]:
    """Return the UDP ports, listening TCP ports and named Unix sockets of a host's network."""
    net = Path(f"/proc/{host.pid}/net")
    found = set()
    for protocol in ("udp", "udp6", "tcp", "tcp6"):
        for line in (net / protocol).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if protocol.startswith("udp") or state == LISTENING:
                found.add(f"{protocol} {local}")
    for line in (net / "unix").read_text().splitlines()[1:]:
        _, *path = line.split()[6:]
        found.update(f"unix {name}" for name in path)
    return found


def _scratch(host: Host) -> set[str]:
    """Return what lies in the host's folders for temporary files, one level deep."""
    return {f"{folder}/{path.name}" for folder in SCRATCH for path in host.path(folder).glob("*")}
