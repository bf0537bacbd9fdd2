"""The command `fed` as an operator uses it: what it prints, and how it exits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.e2e.world import World

REFUSED, UNKNOWN, TAKEN, SITE, REQUEST = 2, 3, 4, 5, 6


def test_status_as_json(federation: World) -> None:
    status = federation.status()
    assert status["name"] == "fed"
    assert status["phase"] == "running"
    assert status["up_seconds"] > 0
    assert status["lease_seconds"] == 300
    assert status["gateway"]["scheduler"].startswith("127.0.0.1:")
    operator, ecmwf, eumetsat = status["members"]
    assert [operator["name"], ecmwf["name"], eumetsat["name"]] == ["operator", "ecmwf", "eumetsat"]
    assert {worker["name"] for worker in ecmwf["pools"]["ecmwf"]} == {"ecmwf-1-0", "ecmwf-1-1"}
    for worker in eumetsat["pools"]["eumetsat"]:
        assert worker["threads"] == 1
        assert worker["memory_bytes"] == 1 << 30
    for member in status["members"]:
        assert member["problem"] is None
        names = {each["name"] for each in status["members"]} - {member["name"]}
        assert {peer["name"] for peer in member["peers"]} == names
        for peer in member["peers"]:
            assert peer["handshake_seconds_ago"] is not None
            assert peer["received_bytes"] > 0
            (kind, went), *others = peer["paths"].items()
            assert (kind, others) == ("direct", [])
            assert went["received_bytes"] == peer["received_bytes"]
            assert went["sent_datagrams"] > went["handshakes"] == peer["handshakes"]
            # Two sites have nothing to say to each other yet; the scheduler has.
            if "operator" in (member["name"], peer["name"]):
                assert peer["received_packets"] > 0
            assert peer["handshakes"] >= 1
            assert peer["relay"] is None
            # Ethernet, less WireGuard over UDP and IPv6 or IPv4.
            assert peer["path_mtu"] in (1420, 1440)
            assert peer["round_trip_microseconds"] > 1000


def test_status_for_monitoring(federation: World) -> None:
    lines = federation.fed("status", "--output", "prometheus").stdout.splitlines()
    tunnel = '{federation="fed",member="ecmwf",peer="eumetsat"}'
    samples = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert samples["fed_mesh_path_mtu_bytes" + tunnel] in ("1420", "1440")
    assert samples[f'fed_mesh_direct{tunnel[:-1]},path="direct",relay=""}}'] == "1"
    assert float(samples["fed_mesh_relayed_bytes_total" + tunnel]) >= 0
    by_path = {
        path: float(samples[f'fed_mesh_received_bytes_total{tunnel[:-1]},path="{path}"}}'])
        for path in ("direct", "tls", "relayed")
    }
    assert by_path["direct"] > 0
    assert by_path["tls"] == by_path["relayed"] == 0
    assert 0.001 < float(samples["fed_mesh_round_trip_seconds" + tunnel]) < 10
    assert samples['fed_workers{federation="fed",member="ecmwf",pool="ecmwf"}'] == "2"


def test_status_as_text(federation: World) -> None:
    text = federation.fed("status").stdout
    assert "federation fed (" in text
    assert "pool ecmwf: 2 workers ecmwf-1-0 ecmwf-1-1" in text
    assert "dashboard  http://127.0.0.1:" in text


def test_logs_of_every_process(federation: World) -> None:
    logs = json.loads(federation.fed("logs", "--tail", "0", "--output", "json").stdout)
    workers = {f"{site}-{number}-{n}" for number, site in ((1, "ecmwf"), (2, "eumetsat"))
               for n in (0, 1)}  # fmt: skip
    expected = {f"{worker.split('-')[0]}/{worker}" for worker in workers}
    expected |= {"operator/scheduler", "operator/node", "ecmwf/node", "eumetsat/node"}
    assert set(logs) == expected
    assert any("Registered to" in line for line in logs["ecmwf/ecmwf-1-0"])
    assert any("Register worker" in line for line in logs["operator/scheduler"])


def test_logs_of_one_process(federation: World) -> None:
    lines = federation.fed("logs", "--tail", "3", "--only", "ecmwf-1-0").stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("ecmwf/ecmwf-1-0: ") for line in lines)


def test_a_name_that_is_taken(federation: World) -> None:
    log = federation.state / "federations" / "fed.log"
    before = log.read_text()
    for arguments in (federation.up_arguments(), federation.up_arguments("--detach")):
        refused = federation.fed(*arguments, code=TAKEN)
        assert "fed is up already" in refused.stderr
        assert "--name" in refused.stderr
    assert federation.status()["phase"] == "running"
    assert before
    assert log.read_text().startswith(before)


def test_a_site_that_nobody_enrolled(federation: World) -> None:
    arguments = ("up", "ecmfw", "--name", "other", "--python", federation.paths.python)
    for options in ((), ("--detach",)):
        refused = federation.fed(*arguments, *options, code=UNKNOWN)
        assert "did you mean ecmwf?" in refused.stderr
        assert "fed site list" in refused.stderr


def test_a_site_that_is_named_twice(federation: World) -> None:
    sites = ["ecmwf", "eumetsat", "ecmwf"]
    refused = federation.fed("up", *sites, "--name", "other", code=REFUSED)
    assert "site ecmwf is named twice" in refused.stderr


def test_workers_of_a_pool_that_is_misspelt(federation: World) -> None:
    arguments = federation.up_arguments("--name", "other", "--workers", "ecmfw=2")
    refused = federation.fed(*arguments, code=REQUEST)
    assert "ecmfw" in refused.stderr
    assert "ecmwf" in refused.stderr.replace("--workers=ecmwf", "")


def test_more_workers_than_a_pool_allows(federation: World) -> None:
    refused = federation.up("--name", "other", workers=5, code=REQUEST)
    assert "4" in refused.stderr
    assert json.loads(federation.fed("status", "--output", "json").stdout).keys() == {"fed"}


@pytest.mark.parametrize("command", ["status", "logs", "down"])
def test_a_federation_that_does_not_run(federation: World, command: str) -> None:
    refused = federation.fed(command, "other", code=UNKNOWN)
    assert "no federation is called other" in refused.stderr
    assert "these are up: fed" in refused.stderr


def test_a_lease_out_of_range(federation: World) -> None:
    refused = federation.up("--name", "other", "--lease", "1s", code=REFUSED)
    assert "is not between 3s and" in refused.stderr


def test_the_list_of_sites(federation: World) -> None:
    sites = json.loads(federation.fed("site", "list", "--output", "json").stdout)
    assert set(sites) == {"ecmwf", "eumetsat"}
    assert sites["ecmwf"]["address"] == "ecmwf:4788"
    assert sites["ecmwf"]["fingerprint"].startswith("SHA256:")


def test_an_invitation_is_good_once(federation: World) -> None:
    site = federation.sites["ecmwf"]
    invitation = site.run("invite")
    federation.fed("site", "add", "ecmwf", invitation)
    refused = federation.fed("site", "add", "ecmwf", invitation, code=SITE)
    assert "invit" in refused.stderr
    assert federation.status()["phase"] == "running"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(federation: World, shell: str) -> None:
    command = [federation.paths.fed, "completions", shell]
    script = federation.operator.run(
        command, capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout
    for offered in ("up", "down", "status", "agent", "site"):
        assert offered in script
    assert "supervised" not in script
    # The operator's folder is nothing to it.
    assert "which this command does not use" in federation.fed(*command[1:], code=REFUSED).stderr


def test_an_agent_that_does_not_answer(world: World) -> None:
    world.lab.snapshot()
    world.sites["eumetsat"].end()
    refused = world.up(code=SITE)
    assert "eumetsat" in refused.stderr
    assert "eumetsat:4788" in refused.stderr
    world.lab.cut("operator", "ecmwf")
    cut_off = world.up(sites=["ecmwf"], code=SITE)
    assert "ecmwf:4788" in cut_off.stderr
    assert world.lab.leftovers() == []
    world.fed("down", code=UNKNOWN)


def test_a_site_that_does_not_know_the_operator(world: World) -> None:
    site = world.sites["ecmwf"]
    site.end()
    (site.state / "identity" / "agent.pem").unlink()
    site.run("init")
    site.start()
    refused = world.up(sites=["ecmwf"], code=SITE)
    assert "fed site" in refused.stderr or "fingerprint" in refused.stderr
    enrol_again(world)


def enrol_again(world: World) -> None:
    site = world.sites["ecmwf"]
    world.fed("site", "add", "ecmwf", "-", input=site.run("invite"))
    world.up(sites=["ecmwf"], workers=1)
    world.fed("down")
