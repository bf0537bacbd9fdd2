"""What the operator's state folder says of a federation, read from its ``connect.json``."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fed.errors import NotRunningError

if TYPE_CHECKING:
    from collections.abc import Mapping

STATE_VARIABLE = "FED_STATE_DIR"
"""Environment variable: the operator's state folder."""

LOG_TAIL = 64 * 1024
"""Bytes at the end of a log in which the last words of ``fed up -d`` stand."""

ERROR = "error: "
"""How the line begins in which a command says why it failed."""

PROBE_TIMEOUT = 2.0
"""Seconds that a gateway on this host may take to accept a connection."""


@dataclass(frozen=True)
class Pool:
    """A pool of workers, as the federation describes it."""

    name: str
    site: str
    workers: int = 0
    data_roots: tuple[str, ...] = ()
    """Folders and URLs that its workers can read, each the root of a tree."""


@dataclass(frozen=True)
class Federation:
    """A federation that this user runs, and how to reach its scheduler."""

    name: str
    identity: str
    scheduler: str
    """Address of the gateway, such as ``tls://127.0.0.1:8786``."""
    ca: Path
    certificate: Path
    key: Path
    dashboard: str | None
    pools: tuple[Pool, ...]
    source: Path
    """The ``connect.json`` that this was read from."""
    versions: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, source: Path) -> Federation:
        """Read a ``connect.json``; paths in it are relative to its folder.

        Raises
        ------
        NotRunningError
            If the file is missing, unreadable or incomplete, or a file that it names is missing.
        """
        try:
            text = source.read_text(encoding="utf-8")
        except OSError as error:
            raise _not_running(source.parent.name, f"{source} cannot be read ({error})") from error
        try:
            return cls._from_document(json.loads(text), source)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"{source} is damaged ({type(error).__name__}: {error})"
            raise _not_running(source.parent.name, problem) from error

    @classmethod
    def _from_document(cls, document: Any, source: Path) -> Federation:
        files = {part: source.parent / document[part] for part in ("ca", "certificate", "key")}
        for path in files.values():
            if not path.is_file():
                raise _not_running(document["name"], f"{path}, named by {source}, is missing")
        return cls(
            name=document["name"],
            identity=document["federation"],
            scheduler=document["scheduler"],
            ca=files["ca"],
            certificate=files["certificate"],
            key=files["key"],
            dashboard=document.get("dashboard"),
            pools=tuple(_pool(entry) for entry in document.get("pools", [])),
            versions=document.get("versions", {}),
            source=source,
        )

    def is_listening(self) -> bool:
        """Tell whether something accepts connections at the gateway's address."""
        address = urlsplit(self.scheduler)
        try:
            with socket.create_connection(
                (address.hostname or "", address.port or 0), timeout=PROBE_TIMEOUT
            ):
                return True
        except OSError:
            return False

    def site_of(self, pool: str) -> str | None:
        """Return the site of a pool."""
        return next((entry.site for entry in self.pools if entry.name == pool), None)


def _pool(entry: Mapping[str, Any]) -> Pool:
    return Pool(
        name=entry["name"],
        site=entry.get("site", entry["name"]),
        workers=int(entry.get("workers", 0)),
        data_roots=tuple(entry.get("data_roots", ())),
    )


def _not_running(name: str | None, problem: str) -> NotRunningError:
    which = f"federation {name!r}" if name else "a federation"
    return NotRunningError(
        f"{which} is not running: {problem}. Start it with `fed up SITE …`, or look with"
        " `fed status`.",
        name=name,
    )


def state_dir(state: str | os.PathLike[str] | None = None) -> Path:
    """Return the operator's state folder.

    Parameters
    ----------
    state
        The folder; by default ``$FED_STATE_DIR``, else ``$XDG_STATE_HOME/fed``, else
        ``~/.local/state/fed``.
    """
    if state is not None:
        return Path(state).expanduser()
    if given := os.environ.get(STATE_VARIABLE):
        return Path(given).expanduser()
    if base := os.environ.get("XDG_STATE_HOME"):
        return Path(base).expanduser() / "fed"
    return Path.home() / ".local" / "state" / "fed"


def find(name: str | None = None, state: str | os.PathLike[str] | None = None) -> Federation:
    """Return a running federation.

    Parameters
    ----------
    name
        Its name; by default, the only one that is running.
    state
        The operator's state folder, see `state_dir`.

    Raises
    ------
    NotRunningError
        If it is not running, or no name is given and not exactly one is running.
    """
    root = state_dir(state) / "federations"
    if name is not None:
        source = root / name / "connect.json"
        if not source.is_file():
            there = sorted(path.parent.name for path in root.glob("*/connect.json"))
            others = f"; there are: {', '.join(there)}" if there else ""
            ended = _how_it_ended(root, name)
            raise _not_running(name, f"{ended or f'{source} does not exist'}{others}")
        federation = Federation.read(source)
        if not federation.is_listening():
            problem = f"nothing answers at {federation.scheduler}, which {source} names"
            raise _not_running(name, problem)
        return federation
    running, broken = _all_running(root)
    if len(running) == 1:
        return running[0]
    if running:
        names = sorted(federation.name for federation in running)
        raise NotRunningError(
            f"{len(running)} federations are running: {', '.join(names)}. Say which:"
            f" fed.connect({names[0]!r}).",
            name=None,
        )
    names = sorted(path.stem for path in root.glob("*.log"))
    broken += [ended for name in names if (ended := _how_it_ended(root, name))]
    reasons = f" ({'; '.join(broken)})" if broken else ""
    raise _not_running(None, f"none is found running under {root}{reasons}")


def _how_it_ended(root: Path, name: str) -> str | None:
    """Return the last words of a detached ``fed up`` that failed, and where they stand."""
    log = root / f"{name}.log"
    if (root / name).exists():
        # It runs, or has been killed and had no time for words.
        return None
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    words = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return f"the last federation {name!r} ended: {words[-1]} (its log is {log})" if words else None


def _all_running(root: Path) -> tuple[list[Federation], list[str]]:
    running, broken = [], []
    for source in sorted(root.glob("*/connect.json")):
        try:
            federation = Federation.read(source)
        except NotRunningError as error:
            broken.append(str(error))
            continue
        if federation.is_listening():
            running.append(federation)
        else:
            broken.append(f"nothing answers at {federation.scheduler} for {federation.name!r}")
    return running, broken


def pools_of_current_client(wanted: str | None = None) -> tuple[Pool, ...]:
    """Return the pools of the federation that the current client is connected to.

    Parameters
    ----------
    wanted
        A pool to find. If it is not among those that were there when the client connected, the
        description is read anew, as a site may have joined since.

    Returns
    -------
    tuple of Pool
        Empty if there is no client, or it was not made by `fed.connect`.
    """
    import sys

    module = sys.modules.get("fed.client")
    if module is None:
        return ()
    client = module.current_fed_client()
    if client is None:
        return ()
    pools: tuple[Pool, ...] = client.federation.pools
    if wanted is not None and all(pool.name != wanted for pool in pools):
        pools = client.refresh().pools
    return pools
