"""Three hosts with an agent at each site, and an operator who is enrolled at both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.e2e import edge, programs, router
from tests.e2e.lab import Bind, Lab
from tests.e2e.notebook import Notebook
from tests.e2e.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.e2e.lab import Host, Link

SITES = ("ecmwf", "eumetsat")
WORKERS = 2

AGENT = """\
name = "{name}"
{reached}
state = "{state}"
python = "{python}"
prologue = {prologue}
read_only = {read_only}
reach = {reach}
{limits}

[[pool]]
name = "{name}"
data = {data}
workers = 2
max_workers = 4
threads = 1
memory = "1 GiB"
"""


@dataclass(frozen=True)
class Paths:
    """Where the programs are, as the hosts see them."""

    fed: str
    python: str
    package: str

    @classmethod
    def of_machine(cls) -> Paths:
        """Return the machine's own paths, which all hosts see."""
        return cls(str(programs.fed()), str(programs.python()), str(programs.PACKAGE))


@dataclass
class Site:
    """A host with an agent.

    ``data`` are the roots of its pool; its workers may read those and ``read_only``, and connect to
    ``reach``. An agent that is to ``dial`` operators does not listen. ``limits`` stands among the
    keys of agent.toml itself, and ``policy`` is its end.
    """

    host: Host
    folder: Path
    paths: Paths
    data: list[str]
    read_only: list[str] = field(default_factory=list)
    reach: list[str] = field(default_factory=list)
    dial: list[str] = field(default_factory=list)
    limits: str = ""
    prologue: str = ""
    python: str | None = None
    user: tuple[int, int] | None = None
    policy: str = ""
    agent: subprocess.Popen[Any] | None = None

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def state(self) -> Path:
        """The agent's folder."""
        return self.folder / "state"

    @property
    def federations(self) -> list[Path]:
        """The folders of the federations that the agent keeps."""
        return sorted((self.state / "federations").glob("*"))

    @property
    def log(self) -> str:
        """What the agents have written so far."""
        return (self.folder / "agent.log").read_text()

    def configure(self) -> None:
        """Write agent.toml."""
        text = AGENT.format(
            name=self.name,
            reached=f"dial = {json.dumps(self.dial)}"
            if self.dial
            else f'address = "{self.name}:4788"',
            state=self.state,
            python=self.python or self.paths.python,
            prologue=json.dumps(self.prologue),
            read_only=json.dumps(self.read_only),
            reach=json.dumps(self.reach),
            limits=self.limits,
            data=json.dumps(self.data),
        )
        (self.folder / "agent.toml").write_text(f"{text}\n{self.policy}")

    def reload(self, policy: str) -> None:
        """Have the agent read another policy, and wait until it has."""
        self.policy = policy
        self.configure()
        assert self.agent is not None
        begun = self.log.count("agent.toml")
        self.agent.send_signal(signal.SIGHUP)
        until(lambda: self.log.count("agent.toml") > begun)

    @property
    def audit(self) -> list[dict[str, Any]]:
        """What the agent has noted of the calls so far."""
        lines = (self.state / "audit.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def command(self, *arguments: str) -> list[str]:
        """Return the command line ``fed agent ARGUMENTS``."""
        return [self.paths.fed, "agent", *arguments, "--config", str(self.folder / "agent.toml")]

    def run(self, *arguments: str) -> str:
        """Run ``fed agent ARGUMENTS``, which has to succeed, and return what it printed."""
        done = self.host.run(
            self.command(*arguments),
            user=self.user,
            env=programs.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self, **environment: str) -> None:
        """Start the agent, and wait until it accepts connections."""
        with (self.folder / "agent.log").open("a") as log:
            self.agent = self.host.popen(
                self.command("run"),
                user=self.user,
                env=programs.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        begun = self.log.count("agent is ready")

        def is_ready() -> bool:
            assert self.agent is not None
            assert self.agent.poll() is None, self.log
            return self.log.count("agent is ready") > begun

        until(is_ready)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the agent a signal, and wait for its end."""
        assert self.agent is not None
        self.agent.send_signal(number)
        self.agent.wait(timeout=PATIENCE)


@dataclass
class World:
    """A lab whose sites have agents, and its operator."""

    lab: Lab
    folder: Path
    paths: Paths
    sites: dict[str, Site]
    user: tuple[int, int] | None
    cleanup: ExitStack

    @property
    def operator(self) -> Host:
        return self.lab["operator"]

    @property
    def state(self) -> Path:
        """The operator's state folder."""
        return self.folder / "operator" / "state"

    def command(self, *arguments: str) -> list[str]:
        """Return the command line ``fed ARGUMENTS`` of the operator."""
        return [self.paths.fed, "--state", str(self.state), *arguments]

    def fed(
        self, *arguments: str, code: int = 0, patience: float = PATIENCE, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run ``fed ARGUMENTS`` as the operator, which has to exit with ``code``."""
        done = self.operator.run(
            self.command(*arguments),
            user=self.user,
            env=programs.environment(),
            capture_output=True,
            text=True,
            timeout=patience,
            **options,
        )
        assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    def up_arguments(
        self, *options: str, sites: Iterable[str] | None = None, workers: int = WORKERS
    ) -> list[str]:
        """Return the arguments of ``fed up`` for some sites, all by default."""
        sites = tuple(self.sites if sites is None else sites)
        numbers = [f"--workers={site}={workers}" for site in sites]
        return ["up", *sites, "--python", self.paths.python, *numbers, *options]

    def up(self, *options: str, code: int = 0, **how: Any) -> subprocess.CompletedProcess[str]:
        """Run ``fed up -d``."""
        return self.fed(*self.up_arguments(*options, **how), "--detach", code=code, patience=150)

    def up_in_foreground(self, *options: str, **how: Any) -> subprocess.Popen[str]:
        """Start ``fed up``, and wait until the federation runs."""
        process = self.start_up(*options, **how)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "is up" in line, process.communicate(timeout=PATIENCE)
        return process

    def start_up(
        self, *options: str, environment: Mapping[str, str] | None = None, **how: Any
    ) -> subprocess.Popen[str]:
        """Start ``fed up`` and do not wait."""
        process: subprocess.Popen[str] = self.operator.popen(
            self.command(*self.up_arguments(*options, **how)),
            user=self.user,
            env=programs.environment(**(environment or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.cleanup.callback(_end, process)
        return process

    def status(self, name: str = "fed") -> dict[str, Any]:
        """Return what ``fed status --output json`` says of a federation."""
        status: dict[str, Any] = json.loads(self.fed("status", name, "--output", "json").stdout)
        return status[name]

    def client_environment(self) -> dict[str, str]:
        """Return the environment of a client on the operator's host."""
        return programs.environment(FED_STATE_DIR=str(self.state), PYTHONPATH=self.paths.package)

    def notebook(self) -> Notebook:
        """Start a Python session on the operator's host."""
        book = Notebook(self.operator, self.paths.python, self.client_environment(), self.user)
        return self.cleanup.enter_context(book)

    def pids(self, host: str, pattern: str) -> list[int]:
        """Return the processes in a host whose command line matches, as this process sees them."""
        found = self.lab.processes(host)
        return [each.pid for each in found if re.search(pattern, each.cmdline)]


def _end(process: subprocess.Popen[Any]) -> None:
    process.kill()
    process.communicate(timeout=PATIENCE)


@contextmanager
def running(
    folder: Path,
    data: Path,
    *,
    see_all: bool = False,
    names: tuple[str, ...] = SITES,
    wan: Link | None = None,
    more_hosts: Iterable[str] = (),
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    edges: Mapping[str, str] | None = None,
    routers: Mapping[str, router.Kind] | None = None,
    paths: Paths | None = None,
    binds: Iterable[Bind] = (),
    user: tuple[int, int] | None = None,
) -> Iterator[World]:
    """Run a world: each site shows its own data below ``/data``, and all show ``/data/shared``.

    Parameters
    ----------
    folder
        For the state of agents and operator.
    data
        As `tests.e2e.data.write` has written it.
    see_all
        Whether each site, and the operator, sees the data of all sites.
    names
        Names of the sites.
    wan
        The link between all hosts, if not that of every lab.
    more_hosts
        Names of further hosts, without an agent.
    changes
        By site, values of `Site` that differ.
    edges
        By host, the chains of rules (`tests.e2e.edge`) that are there from the beginning.
    routers
        By site, the router behind which it lies; the host of its name in the lab is then that.
    paths
        Where the hosts see the programs; by default where the machine has them.
    binds
        What all hosts see besides.
    user
        Numbers of the user and group that agents and operator run as.
    """
    paths = paths or Paths.of_machine()
    hosts = ["operator", *names, *more_hosts]
    seen = {
        host: [*binds, *(_bind(data, tree) for tree in _trees(host, names, see_all))]
        for host in hosts
    }
    private = {host: [programs.TEMPORARY] for host in hosts}
    with Lab(hosts, binds=seen, private=private, wan=wan) as lab, ExitStack() as cleanup:
        for host in lab.hosts.values():
            host.path(programs.TEMPORARY).chmod(0o1777)
        for name, chains in (edges or {}).items():
            edge.put(lab[name], chains)
        routed = {name: router.build(lab[name], kind) for name, kind in (routers or {}).items()}
        sites = {}
        for name in names:
            others = [f"/data/{other}" for other in names if see_all and other != name]
            values = {
                "data": [f"/data/{name}", "/data/shared"],
                "read_only": others,
                **(changes or {}).get(name, {}),
            }
            made = _private(folder / name, user)
            sites[name] = Site(routed.get(name, lab[name]), made, paths, user=user, **values)
        world = World(lab, folder, paths, sites, user, cleanup)
        _private(folder / "operator", user)
        for site in sites.values():
            site.configure()
            enrol(world, site)
        yield world


def enrol(world: World, site: Site) -> None:
    """Do as an administrator and an operator do: init, run, invite, site add."""
    site.run("init")
    site.start()
    invitation = site.run("invite")
    world.fed("site", "add", site.name, "-", input=invitation)


def _trees(host: str, names: tuple[str, ...], see_all: bool) -> list[str]:
    if see_all:
        return [*names, "shared"]
    return [*(site for site in names if site == host), "shared"]


def _bind(data: Path, tree: str) -> Bind:
    return Bind(data / tree, f"/data/{tree}", read_only=True)


def _private(folder: Path, user: tuple[int, int] | None) -> Path:
    folder.mkdir(mode=0o700)
    if user is not None:
        os.chown(folder, *user)
    return folder
