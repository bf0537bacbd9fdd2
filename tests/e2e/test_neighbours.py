"""Several federations over the same sites, and other users of the operator's host: nobody sees or
disturbs another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import data as data_of_sites
from tests.e2e import notebook as notebooks
from tests.e2e import programs
from tests.e2e import world as worlds
from tests.e2e.notebook import Notebook
from tests.e2e.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.world import World

STRANGER = (54322, 54322)
"""Numbers of another user of the operator's host."""

UNKNOWN, TAKEN, SITE = 3, 4, 5


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """A world in a folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="fed-e2e-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir()
        data_of_sites.write(data)
        with worlds.running(folder, data) as world:
            world.up()
            yield world


class Second:
    """A second operator, on the same host, with keys of their own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.state = world.folder / "operator" / "second"
        for site in world.sites.values():
            invitation = site.run("invite", "--operator", "second@lab")
            self.fed("site", "add", site.name, "-", input=invitation)

    def fed(
        self, *arguments: str, code: int = 0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        done = self.world.operator.run(
            [self.world.paths.fed, "--state", str(self.state), *arguments],
            env=programs.environment(),
            capture_output=True,
            text=True,
            timeout=150,
            **options,
        )
        assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
        return done

    def notebook(self) -> Notebook:
        environment = programs.environment(
            FED_STATE_DIR=str(self.state), PYTHONPATH=self.world.paths.package
        )
        return Notebook(self.world.operator, self.world.paths.python, environment)


def _workers() -> list[str]:
    from distributed import get_client

    return sorted(worker["id"] for worker in get_client().scheduler_info()["workers"].values())


def _addresses() -> list[str]:
    from distributed import get_client

    return sorted(get_client().run(_mesh_address).values())


def _mesh_address(dask_worker: Any) -> str:
    return str(dask_worker.address)


def _reach(address: str) -> list[str]:
    """Return how each worker's attempt to connect to an address of the other federation ends."""
    from distributed import get_client

    return sorted(set(get_client().run(_connect, address).values()))


def _connect(address: str) -> str:
    import socket

    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)
    return "connected"


def _processes() -> list[int]:
    from distributed import get_client

    return sorted(get_client().run(_visible_workers).values())


def _visible_workers() -> int:
    count = 0
    for folder in Path("/proc").iterdir():
        try:
            count += b"dask_worker" in (folder / "cmdline").read_bytes()
        except OSError:
            continue
    return count


def test_another_operator_sees_and_disturbs_nothing(
    shared: World, request: pytest.FixtureRequest
) -> None:
    """Both have a federation of one name over the same sites at the same time."""
    notebooks.register(request.module)
    second = Second(shared)
    # What this test has them lose by force ends by its lease.
    up = shared.up_arguments("--lease", "10s", workers=1)
    second.fed(*up, "--detach")
    with shared.notebook() as first, second.notebook() as other:
        first.connect()
        other.connect()
        assert len(first(_workers)) == 4
        assert len(other(_workers)) == 2
        addresses, others = first(_addresses), other(_addresses)
        assert not set(addresses) & set(others)
        for address in others:
            (ending,) = first(_reach, address)
            assert ending != "connected"
        for address in addresses:
            (ending,) = other(_reach, address)
            assert ending != "connected"
        # A sandbox shows its own workers alone: two at each site of the one, one of the other.
        assert first(_processes) == [2] * 4
        assert other(_processes) == [1] * 2
        # The one cannot end, ask or scale the other's, whose id they know.
        own = shared.status()["federation"]
        record = second.state / "federations" / "fed" / "record.json"
        before = record.read_text()
        record.write_text(json.dumps({**json.loads(before), "id": own}))
        (process,) = shared.pids("operator", f"{second.state}.*--supervised")
        os.kill(process, 9)
        until(lambda: not Path(f"/proc/{process}/exe").exists())
        ended = second.fed("down").stderr
        assert "nothing is left" in ended
        assert len(first(_workers)) == 4
        assert shared.status()["phase"] == "running"
    until(lambda: len(shared.sites["ecmwf"].federations), wanted=lambda count: count == 1)
    names = {line["operator"] for line in shared.sites["ecmwf"].audit}
    assert "second@lab" in names


def test_two_that_start_at_the_same_moment(shared: World) -> None:
    """One of them runs, and the others say which process it is."""
    for attempt in range(3):
        name = f"race-{attempt}"
        arguments = shared.command(
            *shared.up_arguments("--name", name, "--detach", sites=["ecmwf"], workers=1)
        )
        processes = [
            shared.operator.popen(
                arguments,
                env=programs.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        ended = [process.communicate(timeout=150)[1] for process in processes]
        codes = sorted(process.returncode for process in processes)
        assert codes == [0, TAKEN, TAKEN], ended
        (runs,) = shared.pids("operator", rf"--name {name} .*--supervised")
        inside = _pid_inside(runs)
        for said, process in zip(ended, processes, strict=True):
            if process.returncode == TAKEN:
                assert f"federation {name} is up already (process {inside} " in said
        assert shared.status(name)["phase"] == "running"
        shared.fed("down", name)
        shared.fed("down", name, code=UNKNOWN)
        left = sorted(path.name for path in (shared.state / "federations").iterdir())
        assert [each for each in left if each.startswith(name)] == []


def _pid_inside(pid: int) -> int:
    """Return a process's number as the processes of its host see it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (numbers,) = (line for line in lines if line.startswith("NSpid:"))
    return int(numbers.split()[-1])


def test_down_while_it_comes_up(shared: World) -> None:
    process = shared.start_up("--name", "early", sites=["ecmwf"], workers=1)
    lock = shared.state / "federations" / "early.lock"
    until(lock.exists)
    shared.fed("down", "early")
    process.communicate(timeout=PATIENCE)
    assert not lock.exists()
    shared.fed("down", "early", code=UNKNOWN)
    assert all("early" not in path.name for path in (shared.state / "federations").iterdir())


def as_stranger(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program on the operator's host as another user."""
    return world.operator.run(
        arguments,
        user=STRANGER,
        env=programs.environment(HOME="/var/tmp"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd="/",
    )


@pytest.fixture(scope="module")
def program(shared: World) -> str:
    """Return the program where another user can run it."""
    copy = shared.folder / "fed"
    shutil.copy2(programs.fed(), copy)
    copy.chmod(0o755)
    return str(copy)


PROBE = """
import json, os, socket, ssl, stat, sys, urllib.error, urllib.request
state, scheduler, dashboard = sys.argv[1:]

def tried(act):
    try:
        return repr(act())
    except BaseException as error:
        return type(error).__name__

def tls(host, port):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), timeout=10) as plain:
        with context.wrap_socket(plain) as stream:
            stream.sendall(b"x" * 64)
            return stream.recv(64)

def control(path):
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(path)
    stream.sendall(b'"Status"\\n')
    return stream.recv(64)

def page(path):
    with urllib.request.urlopen(f"http://{dashboard}{path}", timeout=10) as answer:
        return answer.status

def status(path):
    try:
        return page(path)
    except urllib.error.HTTPError as error:
        return error.code

host, port = scheduler.rsplit(":", 1)
federation = f"{state}/federations/fed"
print(json.dumps({
    "uid": os.getuid(),
    "list": tried(lambda: os.listdir(state)),
    "key": tried(lambda: open(f"{state}/identity/operator.pem").read()),
    "connect": tried(lambda: open(f"{federation}/connect.json").read()),
    "control": tried(lambda: control(f"{federation}/operator.sock")),
    "node": tried(lambda: control(f"{federation}/node/control.sock")),
    "gateway": tried(lambda: tls(host, int(port))),
    "dashboard": [status(path) for path in ("/", "/status", "/info/main/workers.html")],
    "token": status("/?token=0000"),
}))
"""


def test_another_user_of_the_operators_host_gets_nothing(shared: World, program: str) -> None:
    gateway = shared.status()["gateway"]
    dashboard = gateway["dashboard"].removeprefix("http://").split("/")[0]
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "/usr/bin/python3"
    done = as_stranger(
        shared, python, "-c", PROBE, str(shared.state), gateway["scheduler"], dashboard
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["uid"] == STRANGER[0]
    for what in ("list", "key", "connect", "control", "node"):
        assert seen[what] == "PermissionError", seen
    # Without the certificate of the federation the handshake fails: nothing is read.
    assert seen["gateway"] in {"SSLError", "ConnectionResetError", "b''"}, seen
    assert {*seen["dashboard"], seen["token"]} <= {401, 403}, seen
    for command in ("status", "down", "logs"):
        refused = as_stranger(shared, program, "--state", str(shared.state), command, "fed")
        assert refused.returncode != 0
        assert "Permission denied" in refused.stderr or "cannot" in refused.stderr, refused.stderr
    # Nor from the command lines or the environment of what runs.
    secrets = _secrets(shared)
    listed = as_stranger(
        shared, "sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null; true"
    )
    for secret in secrets:
        assert secret not in listed.stdout
    assert shared.status()["phase"] == "running"


def test_an_ordinary_users_agent_keeps_its_files_with_the_user(shared: World, program: str) -> None:
    """Without privilege and options, configuration and state lie in the user's own folders."""
    home = "/var/tmp/home"
    config = f"{home}/.config/fed/agent.toml"
    init = f"mkdir -p {home} && HOME={home} {program} agent init --name lab --address lab:4788"
    # The host may not let this user open the device; nothing is written where a check fails.
    tried = as_stranger(shared, "sh", "-ec", f"{init} --python /nonexistent")
    assert tried.returncode == 7, tried.stderr
    assert as_stranger(shared, "ls", config).returncode != 0
    written = f'mkdir -p {home}/.config/fed && printf \'name = "lab"\naddress = "lab:4788"\n\''
    listed = f"HOME={home} {program} agent operators"
    told = as_stranger(shared, "sh", "-ec", f"{written} > {config}; {listed}")
    assert told.returncode == 0, told.stderr
    assert as_stranger(shared, "ls", f"{home}/.local/state/fed/agent").returncode == 0
    wrong = f"echo wokers = 1 >> {config}; HOME={home} {program} agent invite"
    told = as_stranger(shared, "sh", "-c", wrong)
    assert told.returncode == 2
    assert f"{config}:3: wokers: there is no such key" in told.stderr


def _secrets(world: World) -> list[str]:
    connect = json.loads((world.state / "federations" / "fed" / "connect.json").read_text())
    token = world.status()["gateway"]["dashboard"].rsplit("=", 1)[-1]
    assert len(token) > 8, connect
    return [token, "PRIVATE KEY"]


def test_an_agent_that_does_not_answer_is_told_soon(shared: World) -> None:
    """The limit of 5 s is in the sentence: what is cut off is not waited for longer."""
    shared.lab.cut("operator", "eumetsat")
    try:
        refused = shared.up("--name", "cut-off", code=SITE).stderr
    finally:
        shared.lab.mend("operator", "eumetsat")
    assert "eumetsat:4788 did not answer within 5 s" in refused
    shared.fed("down", "cut-off", code=UNKNOWN)
