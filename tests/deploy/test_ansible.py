"""The Ansible role lints, and installs and enrols an agent; a second run changes nothing."""

import getpass
import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RunAnsible = Callable[..., subprocess.CompletedProcess[str]]

FED = """#!/bin/sh
echo "$@" >> "{calls}"
case "$2" in
    init) touch "{state}/identity" ;;
    invite) echo "fed-invitation-of-{state}" ;;
esac
"""


def test_playbook_is_valid(run_ansible: RunAnsible) -> None:
    run_ansible("ansible-playbook", "--syntax-check", "agent.yml")


def test_role_lints(run_ansible: RunAnsible) -> None:
    run_ansible("ansible-lint", "--offline", "agent.yml", "roles", "inventory")


@pytest.fixture
def host(tmp_path: Path) -> dict[str, Any]:
    """Variables that install into ``tmp_path``, as this user, a ``fed`` that notes its calls."""
    state = tmp_path / "state"
    binary = tmp_path / "built-fed"
    binary.write_text(FED.format(calls=tmp_path / "calls", state=state))
    return {
        "ansible_connection": "local",
        "ansible_become": False,
        "fed_agent_site": "ecmwf",
        "fed_agent_src": str(binary),
        "fed_agent_python": "/opt/fed/bin/python",
        "fed_agent_prologue": 'module load "python"\n',
        "fed_agent_read_only": ["/opt/software"],
        "fed_agent_reach": ["store.site:443"],
        "fed_agent_processes": 512,
        "fed_agent_scratch": "100 GiB",
        "fed_agent_memory_max": "200G",
        "fed_agent_pools": [
            {"name": "ecmwf", "data": ["/data/ecmwf"], "workers": 4, "memory": "16 GiB"},
            {"name": "ecmwf-gpu"},
        ],
        "fed_agent_policy": {"workers": 16, "lifetime": "8h"},
        "fed_agent_operators": [{"name": "alice@lab", "pools": ["ecmwf"]}],
        "fed_agent_apparmor_dir": str(tmp_path / "apparmor.d"),
        "fed_agent_user": getpass.getuser(),
        "fed_agent_binary": str(tmp_path / "bin/fed"),
        "fed_agent_config": str(tmp_path / "etc/agent.toml"),
        "fed_agent_state": str(state),
        "fed_agent_writable": ["/scratch"],
        "fed_agent_unit_dir": str(tmp_path / "units"),
        "fed_agent_start": False,
        "fed_agent_invitation_dir": str(tmp_path / "invitations"),
    }


def install(run_ansible: RunAnsible, folder: Path, variables: dict[str, Any]) -> str:
    """Run the playbook on one host, and give its output."""
    inventory = folder / "inventory.json"
    hosts = {"agent.ecmwf.example": variables}
    inventory.write_text(json.dumps({"sites": {"hosts": hosts}}))
    return run_ansible("ansible-playbook", "-i", inventory, "agent.yml").stdout


def test_role_installs_and_enrols(
    run_ansible: RunAnsible, host: dict[str, Any], tmp_path: Path
) -> None:
    install(run_ansible, tmp_path, host)

    config = tomllib.loads((tmp_path / "etc/agent.toml").read_text())
    assert config == {
        "name": "ecmwf",
        "listen": "[::]:4788",
        "address": "agent.ecmwf.example:4788",
        "state": str(tmp_path / "state"),
        "python": "/opt/fed/bin/python",
        "prologue": 'module load "python"\n',
        "read_only": ["/opt/software"],
        "reach": ["store.site:443"],
        "processes": 512,
        "scratch": "100 GiB",
        "pool": [
            {"name": "ecmwf", "data": ["/data/ecmwf"], "workers": 4, "memory": "16 GiB"},
            {"name": "ecmwf-gpu", "data": []},
        ],
        "policy": {"workers": 16, "lifetime": "8h"},
        "operator": [{"name": "alice@lab", "pools": ["ecmwf"]}],
    }
    assert not (tmp_path / "apparmor.d").exists()
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    drop_in = (tmp_path / "units/fed-agent.service.d/50-host.conf").read_text()
    assert f"ReadWritePaths={tmp_path}/state /scratch\n" in drop_in
    assert "MemoryMax=200G\n" in drop_in
    assert (tmp_path / "units/fed-agent.service").exists()

    invitation = tmp_path / "invitations/agent.ecmwf.example"
    assert invitation.read_text() == f"fed-invitation-of-{tmp_path}/state\n"
    assert invitation.stat().st_mode & 0o777 == 0o600
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [
        f"agent init --config {tmp_path}/etc/agent.toml",
        f"agent invite --config {tmp_path}/etc/agent.toml --expires 24h",
    ]


def test_role_is_idempotent(run_ansible: RunAnsible, host: dict[str, Any], tmp_path: Path) -> None:
    first = install(run_ansible, tmp_path, host)
    assert "changed=0" not in first
    second = install(run_ansible, tmp_path, host)
    assert "changed=0" in second, second


def test_apparmor_lets_the_agent_make_namespaces(
    run_ansible: RunAnsible, host: dict[str, Any], tmp_path: Path
) -> None:
    profiles = tmp_path / "apparmor.d"
    (profiles / "abi").mkdir(parents=True)
    (profiles / "abi/4.0").touch()
    install(run_ansible, tmp_path, host)
    assert "userns," in (profiles / "fed").read_text()
    tunable = (profiles / "tunables/fed.d/agent").read_text()
    assert tunable == f"@{{fed_exec}} += {tmp_path}/bin/fed\n"


def test_the_installed_unit_is_valid(
    run_ansible: RunAnsible, host: dict[str, Any], tmp_path: Path
) -> None:
    install(run_ansible, tmp_path, host)
    unit = tmp_path / "units/fed-agent.service"
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "fed-agent" in line]
    assert complaints == []


def test_a_site_without_pools_has_one_of_its_name(
    run_ansible: RunAnsible, host: dict[str, Any], tmp_path: Path
) -> None:
    del host["fed_agent_pools"]
    install(run_ansible, tmp_path, host)
    config = tomllib.loads((tmp_path / "etc/agent.toml").read_text())
    assert config["pool"] == [{"name": "ecmwf", "data": []}]


def test_a_site_that_dials_is_not_reached(
    run_ansible: RunAnsible, host: dict[str, Any], tmp_path: Path
) -> None:
    host["fed_agent_dial"] = ["alice.lab.example:4789"]
    install(run_ansible, tmp_path, host)
    config = tomllib.loads((tmp_path / "etc/agent.toml").read_text())
    assert config["dial"] == ["alice.lab.example:4789"]
    assert not {"address", "listen"} & set(config)


def test_two_sources_of_the_binary_are_refused(
    run_ansible: RunAnsible, host: dict[str, Any], tmp_path: Path
) -> None:
    host["fed_agent_url"] = "https://fed.example/fed"
    with pytest.raises(AssertionError, match="Set either fed_agent_src, or fed_agent_url"):
        install(run_ansible, tmp_path, host)
    assert not (tmp_path / "bin/fed").exists()
