"""A site that accepts no connection: its agent dials the operator, and all the rest is as ever."""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e import edge
from tests.e2e import notebook as notebooks
from tests.e2e import world as worlds
from tests.e2e.leftovers import Before
from tests.e2e.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.world import Site, World

SITE = 5
"""The exit code where a site cannot be reached."""
PORT = 4789
BYTES = 200_000

NO_TCP_IN = "iif != lo meta l4proto tcp ct state new drop"
EDGES = {
    "no TCP in": f"chain input {{ {edge.INPUT}\n{NO_TCP_IN}\n }}",
    "no TCP in, no UDP": (
        f"chain input {{ {edge.INPUT}\n{NO_TCP_IN}\niif != lo meta l4proto udp drop\n }}\n"
        f"chain output {{ {edge.OUTPUT}\noif != lo meta l4proto udp drop\n }}"
    ),
}


@pytest.fixture(autouse=True)
def _registered(request: pytest.FixtureRequest) -> None:
    notebooks.register(request.module)


@pytest.fixture
def walled(tmp_path: Path, data: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world whose site `ecmwf` accepts no connection from its first moment."""
    edges = {"ecmwf": EDGES[getattr(request, "param", "no TCP in")]}
    changes = {"ecmwf": {"dial": [f"operator:{PORT}"]}}
    with worlds.running(tmp_path, data, changes=changes, edges=edges) as world:
        yield world


@pytest.fixture
def ecmwf(walled: World) -> Site:
    """The site that dials."""
    return walled.sites["ecmwf"]


def problems(world: World, name: str = "fed") -> list[str | None]:
    return [member["problem"] for member in world.status(name)["members"]]


def outcomes(site: Site, call: str) -> list[str]:
    return [line["outcome"] for line in site.audit if line["call"] == call]


def _crossing(size: int, source: str, target: str) -> int:
    """Make bytes at one site, and count them at the other."""
    from distributed import get_client

    client = get_client()
    made = client.submit(bytes, size, pure=False, resources={f"pool-{source}": 0})
    return int(client.submit(len, made, pure=False, resources={f"pool-{target}": 0}).result())


@pytest.mark.parametrize("walled", EDGES, indirect=True)
def test_a_site_that_accepts_nothing_takes_part(walled: World, ecmwf: Site) -> None:
    before = Before.of(walled)
    recorded = json.loads(walled.fed("site", "list", "--output", "json").stdout)
    assert recorded["ecmwf"]["listen"] == f"[::]:{PORT}"
    assert recorded["eumetsat"]["address"] == "eumetsat:4788"
    walled.up(workers=1)
    assert problems(walled) == [None] * 3
    with walled.notebook() as notebook:
        notebook.connect()
        for pair in (("ecmwf", "eumetsat"), ("eumetsat", "ecmwf")):
            assert notebook(_crossing, BYTES, *pair) == BYTES
    logs = walled.fed("logs").stdout
    assert "ecmwf/ecmwf-1-0" in logs
    (enrolment,) = [line for line in ecmwf.audit if line["call"] == "Enrol"]
    assert enrolment["outcome"] == "ok"
    assert enrolment["peer"].endswith(f":{PORT}")
    walled.fed("down")
    assert outcomes(ecmwf, "Leave") == ["ok"]
    before.clean()
    assert ecmwf.log.count('address="nowhere"') == 1
    assert "the operator who was dialled calls" in ecmwf.log


def test_the_agent_is_restarted_in_the_middle(walled: World, ecmwf: Site) -> None:
    lease = 15
    before = Before.of(walled)
    walled.up(f"--lease={lease}s", workers=1)
    renewed = len(outcomes(ecmwf, "Renew"))
    ecmwf.end()
    ecmwf.start()
    assert "took over what an earlier agent left" in ecmwf.log
    # More renewals than one lease holds: without the new agent the site would have ended its part.
    until(lambda: len(outcomes(ecmwf, "Renew")) >= renewed + 4)
    assert problems(walled) == [None] * 3
    with walled.notebook() as notebook:
        notebook.connect()
        assert notebook(_crossing, BYTES, "ecmwf", "eumetsat") == BYTES
    walled.fed("down")
    # At the site there is another agent than before.
    before.clean("operator", "eumetsat")
    assert ecmwf.federations == []


def test_the_operator_is_away_and_comes_back(walled: World, ecmwf: Site) -> None:
    """The network between them is cut for longer than either side believes in the connection."""
    walled.up("--lease=5m", workers=1)
    connected = ecmwf.log.count("the operator who was dialled calls")
    walled.lab.cut("ecmwf", "operator")
    until(lambda: "connection to an operator has ended" in ecmwf.log.rsplit("dialled calls", 1)[1])
    until(lambda: "no operator answers now" in ecmwf.log.rsplit("dialled calls", 1)[1])
    walled.lab.mend("ecmwf", "operator")
    until(lambda: ecmwf.log.count("the operator who was dialled calls") > connected)
    until(lambda: problems(walled), wanted=lambda found: found == [None] * 3)
    # The operator's process dies, and another command tells the site.
    (up,) = walled.pids("operator", "--supervised")
    os.kill(up, signal.SIGKILL)
    assert "nothing is left" in walled.fed("down").stderr
    assert ecmwf.federations == []
    # Nobody listens: an agent that is not there is told, and one that comes is found.
    ecmwf.end()
    refused = walled.up(code=SITE, sites=["ecmwf"]).stderr
    assert "the agent of ecmwf has not dialled us in" in refused
    assert f"we listened at [::]:{PORT};" in refused
    ecmwf.start()
    walled.up(sites=["ecmwf"], workers=1)
    walled.fed("down")


def test_commands_of_one_operator_share_the_port(walled: World, ecmwf: Site) -> None:
    walled.up(workers=1)
    walled.up("--name", "second", workers=1)
    # While two run: enrolled again, and with another key of the operator.
    walled.fed("site", "add", "ecmwf", "-", input=ecmwf.run("invite"))
    walled.fed("site", "rotate")
    assert problems(walled) == problems(walled, "second") == [None] * 3
    # The first, which has the port, ends: the second goes on, and takes it over.
    walled.fed("down")
    renewed = len(outcomes(ecmwf, "Probe"))
    until(lambda: problems(walled, "second"), wanted=lambda found: found == [None] * 3)
    assert len(outcomes(ecmwf, "Probe")) > renewed
    walled.up(workers=1)
    walled.fed("down")
    walled.fed("down", "second")
    assert ecmwf.federations == []
    assert not list(walled.state.glob("listen-*"))


def test_another_key_of_the_agent_and_a_stranger_operator(walled: World, ecmwf: Site) -> None:
    ecmwf.end()
    shutil.rmtree(ecmwf.state / "identity")
    ecmwf.run("init")
    ecmwf.start()
    refused = walled.up(sites=["ecmwf"], code=SITE).stderr
    assert "is not the agent that was enrolled" in refused
    until(lambda: "does not take this agent's key" in ecmwf.log)
    walled.fed("site", "add", "ecmwf", "-", input=ecmwf.run("invite"))
    walled.up(sites=["ecmwf"], workers=1)
    walled.fed("down")
    # The operator is removed: whoever answers at the port now is a stranger to the site.
    (operator,) = json.loads(ecmwf.run("operators", "--output", "json"))[:1]
    ecmwf.run("operators", "remove", operator["fingerprint"])
    refused = walled.up(sites=["ecmwf"], code=SITE).stderr
    assert "is not enrolled there (any more)" in refused
    until(lambda: "which is not enrolled here" in ecmwf.log)
    told = [line["message"] for line in ecmwf.audit if line["outcome"] == "refused"]
    assert told[-1].startswith("removed operator")


def test_strangers_at_the_listener_are_refused(walled: World, ecmwf: Site) -> None:
    walled.up(workers=1)
    stranger = walled.lab["eumetsat"]
    for name in ("ecmwf-site.fed.invalid", "other-site.fed.invalid", "www.example.org"):
        asked = stranger.run(
            [walled.paths.python, "-c", STRANGER, walled.operator.addr4, str(PORT), name],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert asked.returncode == 0, asked.stderr
        assert "refused" in asked.stdout
    assert problems(walled) == [None] * 3
    walled.fed("down")


STRANGER = """
import socket, ssl, sys

host, port, name = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.set_alpn_protocols(["h2"])
with socket.create_connection((host, int(port)), timeout=50) as plain:
    try:
        with context.wrap_socket(plain, server_hostname=name) as stream:
            assert not stream.recv(1), "it was let in"
    except (ssl.SSLError, ConnectionError) as error:
        print("refused:", error)
    else:
        print("refused without a word")
"""
