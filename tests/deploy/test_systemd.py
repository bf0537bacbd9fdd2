"""The systemd units parse, and leave the sandboxes what they need."""

import configparser
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
BINARY = "/usr/local/bin/fed"


def verify(unit: Path, folder: Path) -> str:
    """Give what ``systemd-analyze verify`` complains of; the binary is taken to be installed."""
    copy = folder / unit.name
    copy.write_text(unit.read_text().replace(f"={BINARY} ", "=/bin/true "))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # A unit of the system that wants something else is not ours.
    ours = [line for line in done.stderr.splitlines() if unit.stem in line]
    return "\n".join(ours)


def service(unit: Path) -> configparser.SectionProxy:
    """Read a unit's ``[Service]`` section; the last of a repeated key counts."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[method-assign, assignment]
    parser.read(unit)
    return parser["Service"]


def test_there_is_an_agent_unit() -> None:
    assert "fed-agent.service" in [unit.name for unit in UNITS]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit_is_valid(unit: Path, tmp_path: Path) -> None:
    assert verify(unit, tmp_path) == ""


@pytest.mark.parametrize(
    "mistake", ["Tpye=notify", "KillMode=proces", "ExecStart=/no/such/program --flag"]
)
def test_a_mistake_is_found(mistake: str, tmp_path: Path) -> None:
    unit = tmp_path / "wrong" / "fed-agent.service"
    unit.parent.mkdir()
    text = (ROOT / "deploy/systemd/fed-agent.service").read_text()
    unit.write_text(text.replace("[Install]", f"{mistake}\n[Install]"))
    assert verify(unit, tmp_path) != ""


def test_nodes_survive_the_agent() -> None:
    agent = service(ROOT / "deploy/systemd/fed-agent.service")
    assert agent["KillMode"] == "process"
    assert agent["OOMPolicy"] == "continue"
    assert agent["Restart"] == "on-failure"
    assert agent.get("PrivateTmp", "no") == "no"


@pytest.mark.parametrize(
    "setting",
    [
        "RestrictNamespaces",
        "PrivateUsers",
        "PrivateDevices",
        "PrivateNetwork",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelTunables",
        "MemoryDenyWriteExecute",
    ],
)
def test_hardening_leaves_sandboxes_possible(setting: str) -> None:
    agent = service(ROOT / "deploy/systemd/fed-agent.service")
    assert agent.get(setting, "no") == "no", "the unit says why this must stay out"


def test_the_tun_device_is_allowed() -> None:
    agent = service(ROOT / "deploy/systemd/fed-agent.service")
    assert "/dev/net/tun rw" in agent["DeviceAllow"]
    assert "AF_NETLINK" in agent["RestrictAddressFamilies"]


def test_a_reload_is_a_hangup() -> None:
    agent = service(ROOT / "deploy/systemd/fed-agent.service")
    assert agent["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_the_agent_may_take_its_time_to_ask_its_interpreters() -> None:
    """An interpreter may take a minute to answer, and there may be several."""
    agent = service(ROOT / "deploy/systemd/fed-agent.service")
    source = (ROOT / "crates/fed-service/src/python.rs").read_text()
    patience = re.search(r"const PATIENCE: Duration = Duration::from_secs\((\d+)\)", source)
    assert patience is not None
    assert int(agent["TimeoutStartSec"]) >= 3 * int(patience[1])


def test_the_apparmor_profile_gives_namespaces_and_takes_nothing() -> None:
    lines = (ROOT / "deploy/apparmor/fed").read_text().splitlines()
    rules = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    assert rules == [
        "abi <abi/4.0>,",
        "include <tunables/global>",
        "@{fed_exec} = /usr/local/bin/fed /usr/bin/fed",
        "include if exists <tunables/fed.d>",
        "profile fed @{fed_exec} flags=(unconfined) {",
        "userns,",
        "include if exists <local/fed>",
        "}",
    ]
