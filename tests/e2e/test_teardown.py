"""However a federation ends, nothing of it is left: processes, namespaces, devices, files."""

from __future__ import annotations

import os
import re
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import notebook as notebooks
from tests.e2e.leftovers import Before
from tests.e2e.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.e2e.world import World

LEASE = ("--lease", "10s")
SHORT_LEASE = 5.0
LEASE_PATIENCE = 40.0
"""Seconds: the lease, the node's own grace of a few more, and a busy machine."""
UNKNOWN, UNREACHABLE = 3, 5


@pytest.fixture
def before(world: World, request: pytest.FixtureRequest) -> Before:
    notebooks.register(request.module)
    return Before.of(world)


def compute(world: World) -> None:
    """Compute something on all workers, as a federation that is alive can."""
    with world.notebook() as notebook:
        notebook.connect()
        assert notebook(_pools_at_work) == sorted(world.sites)


def _pools_at_work() -> list[str]:
    from distributed import get_client

    pools = get_client().run(_pool_here)
    return sorted(set(pools.values()))


def _pool_here() -> str:
    return os.environ["FED_POOL"]


def outer_node(world: World, host: str) -> int:
    """Return the outer half of the node on a host: the one in the host's own network."""
    return _node(world, host, outer=True)


def inner_node(world: World, host: str) -> int:
    """Return the inner half of the node on a host: the first process of the sandbox."""
    return _node(world, host, outer=False)


def _node(world: World, host: str, *, outer: bool) -> int:
    own = _network(world.lab[host].pid)
    (half,) = (pid for pid in world.pids(host, r"fed node") if (_network(pid) == own) == outer)
    return half


def _network(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def foreground(world: World, *options: str) -> subprocess.Popen[str]:
    return world.up_in_foreground(*options, workers=1)


def read_until(up: subprocess.Popen[str], text: str) -> None:
    """Read what `fed up` tells until it has told this."""
    assert up.stderr is not None
    assert any(text in line for line in up.stderr), f"fed up never said {text!r}"


def kill_operator(world: World) -> None:
    """Kill `fed up` itself, not the program that runs it in the host."""
    (pid,) = world.pids("operator", r"fed .*\bup ecmwf")
    os.kill(pid, signal.SIGKILL)


def test_looking_finds_what_is_there(world: World, before: Before) -> None:
    """What the other tests find empty is full while a federation runs."""
    world.up(workers=1)
    for host in ("operator", "ecmwf", "eumetsat"):
        left = before.left([host])
        for kind in ("process", "namespace", "socket udp", "socket unix", "file"):
            assert any(line.startswith(kind) for line in left), (host, kind, left)
        assert any("network device fed0" in line for line in world.lab.leftovers())
    world.fed("down")
    before.clean()


def test_down(world: World, before: Before) -> None:
    world.up(workers=1)
    compute(world)
    world.fed("down")
    before.clean()
    refused = world.fed("down", code=UNKNOWN)
    assert "no federation is called fed" in refused.stderr
    # The name and all ports are free again.
    world.up(workers=1)
    compute(world)
    world.fed("down")
    before.clean()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal(world: World, before: Before, number: signal.Signals) -> None:
    up = foreground(world)
    up.send_signal(number)
    _, told = up.communicate(timeout=60)
    assert up.returncode == 0, told
    assert "nothing is left" in told
    assert before.left(world.lab.hosts) == []


@pytest.mark.parametrize("step", ["ecmwf: answered", "keys exchanged", "workers started"])
def test_a_signal_on_the_way_up(world: World, before: Before, step: str) -> None:
    up = world.start_up(workers=1)
    read_until(up, step)
    up.send_signal(signal.SIGINT)
    _, told = up.communicate(timeout=60)
    assert up.returncode == 128 + signal.SIGINT, told
    assert "nothing is left" in told
    before.clean()


def test_whoever_insists_does_not_wait(world: World, before: Before) -> None:
    """The second Ctrl-C ends `fed up` while a site does not answer; `fed down` tells the others."""
    up = foreground(world, *LEASE)
    world.lab.cut("operator", "ecmwf")
    up.send_signal(signal.SIGINT)
    read_until(up, "eumetsat: left")
    up.send_signal(signal.SIGINT)
    _, told = up.communicate(timeout=60)
    assert up.returncode == 128 + signal.SIGINT, told
    assert "`fed down fed` ends it, or the sites do by themselves in at most 10 s" in told
    before.clean("operator", files=False)
    world.lab.mend("operator", "ecmwf")
    assert "nothing is left" in world.fed("down").stderr
    before.clean()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_shell_leaves_while_the_federation_comes_up(
    world: World, before: Before, number: signal.Signals
) -> None:
    """`fed up -d` has not returned yet: whoever ends it does not want the federation."""
    up = world.start_up("--detach", workers=1)
    read_until(up, "keys exchanged")
    up.send_signal(number)
    up.communicate(timeout=60)
    before.clean()
    world.fed("down", code=UNKNOWN)


def test_nobody_reads_what_up_prints(world: World, before: Before) -> None:
    up = world.start_up(workers=1)
    assert up.stdout is not None
    assert up.stderr is not None
    up.stdout.close()
    assert "cannot write to standard output" in up.stderr.read()
    assert up.wait(timeout=60) != 0
    before.clean()


def test_the_operator_is_killed(world: World, before: Before) -> None:
    up = foreground(world, *LEASE)
    compute(world)
    kill_operator(world)
    up.wait(timeout=10)
    before.clean("operator", files=False)
    before.clean("ecmwf", "eumetsat", patience=LEASE_PATIENCE)
    told = world.fed("down").stderr
    assert "has died" in told
    before.clean("operator")


def test_the_detached_operator_is_killed(world: World, before: Before) -> None:
    world.up(*LEASE, workers=1)
    kill_operator(world)
    before.clean("operator", files=False)
    before.clean("ecmwf", "eumetsat", patience=LEASE_PATIENCE)
    assert world.status() is None
    # The next one of this name clears up what is left.
    world.up(workers=1)
    compute(world)
    world.fed("down")
    before.clean()


def test_down_after_the_operator_was_killed_does_not_wait_for_the_lease(
    world: World, before: Before
) -> None:
    world.up("--lease", "1h", workers=1)
    kill_operator(world)
    before.clean("operator", files=False)
    assert before.left(["ecmwf"]) != []
    world.fed("down")
    before.clean()


def test_a_site_loses_its_node(world: World, before: Before) -> None:
    world.up(*LEASE, workers=1)
    os.kill(outer_node(world, "ecmwf"), signal.SIGKILL)
    before.clean("ecmwf")
    assert before.left(["eumetsat"]) != []
    world.fed("down")
    before.clean()


@pytest.mark.parametrize(
    ("half", "why"),
    [(outer_node, r" \(signal 9\)(: .*)?"), (inner_node, ": the sandbox ended by itself; .*")],
)
def test_the_operator_loses_its_node(
    world: World, before: Before, half: Callable[[World, str], int], why: str
) -> None:
    up = foreground(world, *LEASE)
    os.kill(half(world, "operator"), signal.SIGKILL)
    _, told = up.communicate(timeout=60)
    assert up.returncode == 1
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, told
    assert re.fullmatch(rf"error: operator: its node died{why}", errors[0]), told
    before.clean()


def test_a_command_names_the_process_that_does_not_answer(world: World, before: Before) -> None:
    """As after Ctrl-Z of `fed up`: what nobody waits for any more is not done when it goes on."""
    world.up(workers=1)
    (pid,) = world.pids("operator", r"fed .*\bup ecmwf")
    os.kill(pid, signal.SIGSTOP)
    for command in ("status", "logs", "down"):
        told = world.fed(command, "fed", code=1).stderr
        assert re.search(r"error: process \d+ has not answered in 10 s .*kill -CONT", told), told
    os.kill(pid, signal.SIGCONT)
    assert world.status()["phase"] == "running"
    compute(world)
    assert "nothing is left" in world.fed("down").stderr
    before.clean()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_restarted_agent_goes_on(world: World, before: Before, number: signal.Signals) -> None:
    site = world.sites["ecmwf"]
    world.up("--lease", f"{SHORT_LEASE:g}s", workers=1)
    site.end(number)
    site.start()
    assert "took over what an earlier agent left" in site.log
    deadline = time.monotonic() + 2.5 * SHORT_LEASE
    while time.monotonic() < deadline:
        assert outer_node(world, "ecmwf")
        time.sleep(0.5)
    compute(world)
    world.fed("down")
    # The agent itself is another process than before.
    site.end()
    before.clean()


def test_a_node_without_an_agent_ends_with_its_lease(world: World, before: Before) -> None:
    site = world.sites["ecmwf"]
    world.up(*LEASE, workers=1)
    site.end()
    before.clean("ecmwf", files=False, patience=LEASE_PATIENCE)
    site.start()
    until(lambda: site.federations, lambda found: not found)
    world.fed("down")
    site.end()
    before.clean()


def test_a_node_of_which_the_agent_has_no_record_is_ended(world: World, before: Before) -> None:
    site = world.sites["ecmwf"]
    world.up("--lease", "1h", workers=1)
    site.end()
    (folder,) = site.federations
    (folder / "federation.json").write_text("{")
    site.start()
    assert "record is damaged" in site.log
    assert site.federations == []
    assert world.pids("ecmwf", r"fed node") == []
    world.fed("down")
    # The agent itself is another process than before.
    site.end()
    before.clean()


def test_a_sandbox_loses_its_first_process(world: World, before: Before) -> None:
    world.up(*LEASE, workers=1)
    os.kill(inner_node(world, "ecmwf"), signal.SIGKILL)
    before.clean("ecmwf")
    world.fed("down")
    before.clean()


def test_the_scheduler_dies(world: World, before: Before) -> None:
    up = foreground(world)
    (scheduler,) = world.pids("operator", r"distributed\.cli\.dask_scheduler")
    os.kill(scheduler, signal.SIGKILL)
    _, told = up.communicate(timeout=60)
    assert up.returncode != 0
    assert "the scheduler ended" in told
    before.clean()


def test_why_a_detached_federation_ended_is_told(world: World, before: Before) -> None:
    world.up(workers=1)
    (scheduler,) = world.pids("operator", r"distributed\.cli\.dask_scheduler")
    os.kill(scheduler, signal.SIGKILL)
    before.clean(files=False)
    log = world.state / "federations" / "fed.log"
    until(lambda: "error: " in log.read_text())
    reason = "operator: the scheduler ended (signal 9)"
    assert reason in until(lambda: world.fed("status").stdout)
    for command in ("status", "down"):
        assert reason in world.fed(command, "fed", code=UNKNOWN).stderr
    with world.notebook() as notebook, pytest.raises(Exception, match=r"scheduler ended .signal 9"):
        notebook.connect()
    world.up(workers=1)
    world.fed("down")
    assert reason not in world.fed("status").stdout
    before.clean()


def _keep_busy() -> None:
    import subprocess

    from distributed import fire_and_forget, get_client

    def never_end() -> None:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)

    client = get_client()
    client.run(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    for pool in ("ecmwf", "eumetsat"):
        fire_and_forget(client.submit(never_end, resources={f"pool-{pool}": 0}, pure=False))


def test_down_while_workers_are_busy(world: World, before: Before) -> None:
    """Tasks that never end, ignore signals and start programs of their own are ended too."""
    world.up(workers=1)
    notebook = world.notebook()
    notebook.connect()
    notebook(_keep_busy)
    for site in world.sites:
        until(lambda site=site: world.pids(site, "^sleep 1000"))  # type: ignore[misc]
    notebook.close()
    world.fed("down")
    before.clean()


def test_a_short_cut_heals(world: World, before: Before) -> None:
    world.up("--lease", "60s", workers=1)
    with world.notebook() as notebook:
        notebook.connect()
        for other in ("operator", "eumetsat"):
            world.lab.cut("ecmwf", other)
        time.sleep(3)
        for other in ("operator", "eumetsat"):
            world.lab.mend("ecmwf", other)
        assert notebook(_pools_at_work) == sorted(world.sites)
    assert world.status()["phase"] == "running"
    world.fed("down")
    before.clean()


@pytest.mark.parametrize("others", [["operator"], ["operator", "eumetsat"]])
def test_a_site_that_is_cut_off_cleans_itself(
    world: World, before: Before, others: list[str]
) -> None:
    world.up(*LEASE, workers=1)
    for other in others:
        world.lab.cut("ecmwf", other)
    before.clean("ecmwf", patience=LEASE_PATIENCE)
    status: dict[str, Any] = world.status()
    assert status["phase"] == "running"
    problems = {member["name"]: member["problem"] for member in status["members"]}
    assert problems["ecmwf"]
    assert problems["eumetsat"] is None
    for other in others:
        world.lab.mend("ecmwf", other)
    # The site still knows why, although nobody could hear it at the time.
    told = "ecmwf: its part has ended: its operator has not renewed the lease for 10 s"
    log = world.state / "federations" / "fed.log"
    until(lambda: told in log.read_text())
    world.fed("down")
    before.clean()


def test_down_while_a_site_is_cut_off(world: World, before: Before) -> None:
    world.up(*LEASE, workers=1)
    world.lab.cut("ecmwf", "operator")
    told = world.fed("down", code=UNREACHABLE).stderr
    _assert_told_of_ecmwf(told, time.time() + 10)
    assert "ecmwf: could not be told" in told
    assert "eumetsat: left" in told
    assert "ecmwf: left" not in told
    before.clean("operator", "eumetsat", files=False)
    before.clean("ecmwf", patience=LEASE_PATIENCE)
    # Nothing is left to be told of, but who looks later is told what happened.
    world.lab.mend("ecmwf", "operator")
    assert "ecmwf could not be told" in world.fed("down", code=UNKNOWN).stderr


def test_interrupted_while_a_site_is_cut_off(world: World, before: Before) -> None:
    """Ctrl-C is another way to say `fed down`, and so is `fed down` after the operator's death."""
    up = foreground(world, *LEASE)
    world.lab.cut("ecmwf", "operator")
    up.send_signal(signal.SIGINT)
    _, told = up.communicate(timeout=60)
    assert up.returncode == UNREACHABLE, told
    _assert_told_of_ecmwf(told, time.time() + 10)
    assert "nothing is left" not in told
    world.lab.mend("ecmwf", "operator")
    before.clean(patience=LEASE_PATIENCE)

    world.up(*LEASE, workers=1)
    world.lab.cut("ecmwf", "operator")
    kill_operator(world)
    before.clean("operator", files=False)
    told = world.fed("down", code=UNREACHABLE).stderr
    _assert_told_of_ecmwf(told, time.time() + 10)
    before.clean("operator", "eumetsat")
    world.lab.mend("ecmwf", "operator")
    before.clean(patience=LEASE_PATIENCE)


def _assert_told_of_ecmwf(told: str, latest: float) -> None:
    """Hold the one error against what it has to say: the site, why, and when it is over."""
    (error,) = (line for line in told.splitlines() if line.startswith("error: "))
    found = re.fullmatch(
        r"error: federation fed has ended here, but ecmwf could not be told \((.+)\) "
        r"and ends its part when its lease lapses, at (\S+) at the latest",
        error,
    )
    assert found, error
    ends = datetime.fromisoformat(found[2]).timestamp()
    assert ends <= latest


def test_a_worker_that_ends_is_told(world: World, before: Before) -> None:
    up = foreground(world)
    (worker,) = world.pids("ecmwf", r"dask_worker.* --name ecmwf-1-0")
    os.kill(worker, signal.SIGKILL)
    read_until(up, "worker ecmwf-1-0 ended by itself")
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=60)
    before.clean()
