"""Hosts in namespaces on this machine, joined by a WAN emulator: a wrapper of ``fed-lab``.

A :class:`Lab` runs ``fed-lab serve`` and ends it, with every process in every host, when its
``with`` block ends or this process does. A :class:`Host` starts programs by ``fed-lab exec``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]


class LabError(Exception):
    """The lab could not be started, or refused a request."""


@dataclass(frozen=True)
class Bind:
    """A file or directory of the machine, shown in one host.

    Parameters
    ----------
    source
        Path on the machine.
    target
        Absolute path in the host; missing directories are made there alone.
    read_only
        Whether the host may only read it.
    """

    source: Path | str
    target: Path | str
    read_only: bool = False


@dataclass(frozen=True)
class Link:
    """What one direction between two hosts does to frames; ``None`` leaves a value as it is.

    A new lab has 20 ms one way and 100 Mbit/s, without loss.

    Parameters
    ----------
    delay_ms
        Delay one way, in milliseconds.
    rate_mbit
        Rate in Mbit/s of Ethernet frames; 0 for no limit.
    loss
        Probability of loss, 0 to 1.
    queue_bytes
        Bytes that may wait.
    jitter_ms
        Each frame takes up to this much longer, in milliseconds.
    reorder
        Whether jitter may let a frame overtake another.
    repeat
        Probability that a frame arrives a second time, 0 to 1.
    mtu
        Largest payload in bytes that passes; 0 for no limit.
    """

    delay_ms: float | None = None
    rate_mbit: float | None = None
    loss: float | None = None
    queue_bytes: int | None = None
    jitter_ms: float | None = None
    reorder: bool | None = None
    repeat: float | None = None
    mtu: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the values that are given."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class LinkCounters:
    """What one direction has carried since the last reset.

    ``bytes`` are those of Ethernet frames that were sent: 14-byte header and payload, without
    preamble, checksum and gap; frames lost on the way included, dropped ones not.
    ``utilisation`` is the share of the time, 0 to 1, in which the link was sending.
    """

    frames: int
    bytes: int
    delivered_frames: int
    delivered_bytes: int
    dropped_queue: int
    dropped_loss: int
    dropped_cut: int
    dropped_mtu: int
    dropped_device: int
    busy_s: float
    utilisation: float


@dataclass(frozen=True)
class Counters:
    """What all links have carried in the ``elapsed_s`` seconds since the last reset."""

    elapsed_s: float
    links: Mapping[tuple[str, str], LinkCounters]

    def __getitem__(self, pair: tuple[str, str]) -> LinkCounters:
        """Return the counters of one direction, ``(sender, receiver)``."""
        return self.links[pair]

    @property
    def total_bytes(self) -> int:
        """Bytes sent over all links together."""
        return sum(link.bytes for link in self.links.values())


@dataclass(frozen=True)
class Process:
    """A process in a host, with its id as this process sees it."""

    pid: int
    cmdline: str


@dataclass(frozen=True)
class Host:
    """One host of a running lab.

    ``pid`` is its first process, as this process sees it; ``addr4`` and ``addr6`` are its
    addresses on the WAN. ``network`` is the file of the network namespace in which its programs
    run, if that is not the host's own.
    """

    name: str
    pid: int
    addr4: str
    addr6: str
    binary: Path = field(repr=False)
    network: str | None = None

    def arguments(
        self, args: Sequence[str | os.PathLike[str]], user: tuple[int, int] | None = None
    ) -> list[str]:
        """Return the command line that runs ``args`` in this host.

        Parameters
        ----------
        args
            The program and its arguments.
        user
            Numbers of the user and group to run as; the lab's own by default.
        """
        prefix = [str(self.binary), "exec", "--pid", str(self.pid)]
        if user is not None:
            prefix += ["--uid", str(user[0]), "--gid", str(user[1])]
        inside = [] if self.network is None else ["nsenter", f"--net={self.network}", "--"]
        return [*prefix, "--", *inside, *(os.fspath(each) for each in args)]

    def popen(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        user: tuple[int, int] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a program in this host; options as those of :class:`subprocess.Popen`.

        Signals sent to the process reach the program, and killing it kills the program; it ends
        as the program ends. A signal to its process group reaches the program twice. ``cwd`` is
        entered on the machine first, and keeps its path where the host has it.
        """
        return subprocess.Popen(self.arguments(args, user), **options)

    def run(
        self,
        args: Sequence[str | os.PathLike[str]],
        *,
        user: tuple[int, int] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[Any]:
        """Run a program in this host to its end; options as those of :func:`subprocess.run`."""
        return subprocess.run(self.arguments(args, user), **options)  # noqa: PLW1510

    def path(self, inside: str | os.PathLike[str]) -> Path:
        """Return the machine's path of a path in this host, good while the host runs."""
        return Path(f"/proc/{self.pid}/root") / os.fspath(inside).lstrip("/")


class Lab:
    """Hosts joined by a WAN; a context manager.

    Parameters
    ----------
    hosts
        Their names, ``[a-z][a-z0-9-]{0,30}``.
    binds
        By host, what it sees of the machine at other paths. All hosts see the machine's own tree
        too, except ``/run``, ``/dev/shm`` and ``/proc``.
    private
        By host, paths at which it has an empty directory of its own.
    wan
        The link between all hosts.
    seed
        Of losses and jitter.
    binary
        The program ``fed-lab``; by default that of the environment variable ``FED_LAB``, else
        the one under ``target/debug``.

    Raises
    ------
    LabError
        When the hosts cannot be made; the text says what the machine lacks.
    """

    def __init__(
        self,
        hosts: Iterable[str],
        *,
        binds: Mapping[str, Iterable[Bind]] | None = None,
        private: Mapping[str, Iterable[str | os.PathLike[str]]] | None = None,
        wan: Link | None = None,
        seed: int = 0,
        binary: Path | None = None,
    ) -> None:
        self._binary = binary or _default_binary()
        binds, private = dict(binds or {}), dict(private or {})
        described = [
            {
                "name": name,
                "binds": [_bind_json(bind) for bind in binds.pop(name, ())],
                "private": [os.fspath(path) for path in private.pop(name, ())],
            }
            for name in hosts
        ]
        if unknown := [*binds, *private]:
            raise LabError(f"no such host: {', '.join(unknown)}; name it in `hosts`")
        spec = {"hosts": described, "wan": (wan or Link()).to_json(), "seed": seed}
        self._process = self._start(spec)
        try:
            ready = self._read()
        except LabError:
            self.close()
            raise
        self.hosts: dict[str, Host] = {
            name: Host(name=name, binary=self._binary, **address)
            for name, address in ready["hosts"].items()
        }

    def _start(self, spec: dict[str, Any]) -> subprocess.Popen[str]:
        # The server reads the description from a descriptor: no file is left behind.
        with tempfile.TemporaryFile("w+") as file:
            json.dump(spec, file)
            file.flush()
            file.seek(0)
            try:
                return subprocess.Popen(
                    [str(self._binary), "serve", f"/dev/fd/{file.fileno()}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    pass_fds=[file.fileno()],
                    # Ctrl-C at the terminal is for the tests, which then end the lab in order.
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise LabError(
                    f"{self._binary} is missing: build it with `cargo build -p fed-testkit`"
                ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        """Return the host of this name."""
        return self.hosts[name]

    @property
    def pid(self) -> int:
        """The process that holds the lab: killing it ends all hosts."""
        return self._process.pid

    def close(self) -> None:
        """End every process in every host, and wait for that. Closing again does nothing."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise LabError("fed-lab did not end within 30 s and was killed") from None
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def counters(self) -> Counters:
        """Return what each link has carried since the last :meth:`reset`."""
        answer = self._ask("counters")
        links = {
            (link.pop("from"), link.pop("to")): LinkCounters(**link) for link in answer["links"]
        }
        return Counters(elapsed_s=answer["elapsed_s"], links=links)

    def reset(self) -> None:
        """Set all counters to zero."""
        self._ask("reset")

    def cut(
        self,
        a: str,
        b: str,
        what: Literal["everything", "tcp", "udp"] = "everything",
        *,
        one_way: bool = False,
    ) -> None:
        """Cut the link between two hosts (or from ``a`` to ``b`` alone), or one protocol on it."""
        self._ask("cut", a=a, b=b, what=what, one_way=one_way)

    def mend(self, a: str, b: str) -> None:
        """Undo every `cut` between two hosts, in both directions."""
        self._ask("cut", a=a, b=b, what="nothing")

    def change_link(self, a: str, b: str, link: Link, *, one_way: bool = False) -> None:
        """Change the link between two hosts (or from ``a`` to ``b`` alone) from now on."""
        self._ask("wan", a=a, b=b, one_way=one_way, change=link.to_json())

    def processes(self, host: str) -> list[Process]:
        """Return all processes in a host, except its first."""
        return [Process(**process) for process in self._ask("processes", host=host)]

    def snapshot(
        self,
        folders: Iterable[str | os.PathLike[str] | tuple[str, str]] = (),
        *,
        machine: bool = False,
    ) -> None:
        """Remember what there is, for :meth:`leftovers`.

        Parameters
        ----------
        folders
            Paths on the machine, or pairs of a host and a path in it, whose files count too.
        machine
            Whether to look outside the hosts too: for programs named ``fed``, and for processes in
            namespaces that were not there. Other tests of this machine show as well.
        """
        described = [
            {"host": each[0], "path": each[1]}
            if isinstance(each, tuple)
            else {"path": os.fspath(each)}
            for each in folders
        ]
        self._ask("snapshot", folders=described, machine=machine)

    def leftovers(self) -> list[str]:
        """Return what was not there at the last :meth:`snapshot`, a line each; empty is clean.

        In the hosts every new process, namespace and network device counts.
        """
        lines: list[str] = self._ask("leftovers")
        return lines

    def _ask(self, command: str, **values: Any) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **values}) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError) as error:
            raise LabError("the lab has ended; start another") from error
        answer = self._read()
        if "error" in answer:
            raise LabError(f"{command}: {answer['error']}")
        return answer["ok"]

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LabError("fed-lab ended without an answer; its standard error says why")
        return json.loads(line)


def _bind_json(bind: Bind) -> dict[str, Any]:
    return {
        "source": os.fspath(bind.source),
        "target": os.fspath(bind.target),
        "read_only": bind.read_only,
    }


def _default_binary() -> Path:
    named = os.environ.get("FED_LAB")
    return Path(named) if named else ROOT / "target" / "debug" / "fed-lab"
