"""Who may do what at a site: limits, removal, changes of keys, and what the agent writes down."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import notebook as notebooks
from tests.e2e import programs
from tests.e2e.waiting import PATIENCE, until

if TYPE_CHECKING:
    import subprocess

    from tests.e2e.world import Site, World

USAGE, UNKNOWN, TAKEN, SITE, HOST = 2, 3, 4, 5, 7


@pytest.fixture
def ecmwf(world: World) -> Site:
    """The site that these tests are about."""
    return world.sites["ecmwf"]


def own_name(site: Site) -> str:
    """Return what the operator of these tests is called."""
    (operator,) = json.loads(site.run("operators", "--output", "json"))
    return str(operator["name"])


def fails(site: Site, *arguments: str, code: int) -> str:
    """Run ``fed agent ARGUMENTS``, which has to exit with ``code``, and return its errors."""
    done = site.host.run(
        site.command(*arguments),
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}\n{done.stderr}"
    return str(done.stderr)


def calls(site: Site, call: str) -> list[dict[str, Any]]:
    return [line for line in site.audit if line["call"] == call]


def test_limits_are_told_and_kept(world: World, ecmwf: Site) -> None:
    """A refusal names limit, site and operator; a changed policy counts without a restart."""
    name = own_name(ecmwf)
    ecmwf.reload("[policy]\nworkers = 1\n")
    # The site offers no more than that, so that the operator refuses by itself.
    assert "1" in world.up(sites=["ecmwf"], code=6).stderr
    ecmwf.reload('[policy]\nlease = "1m"\n')
    refused = world.up(sites=["ecmwf"], code=SITE).stderr
    assert f"ecmwf allows {name} leases of at most 1m (lease)" in refused
    assert "fed up --lease 1m" in refused
    world.up("--lease", "1m", sites=["ecmwf"], workers=1)
    # A second federation of the same operator: both together have to keep to the limit.
    ecmwf.reload("[policy]\ncores = 2\n")
    world.up("--name", "second", sites=["ecmwf"], workers=1)
    refused = world.up("--name", "third", sites=["ecmwf"], workers=1, code=SITE).stderr
    assert f"ecmwf allows {name} 2 cores (cores) at a time" in refused
    assert "2 would become 3" in refused
    ecmwf.reload("[policy]\nfederations = 2\n")
    refused = world.up("--name", "third", sites=["ecmwf"], workers=1, code=SITE).stderr
    assert f"ecmwf allows {name} 2 federations (federations) at a time" in refused
    # What has ended does not count any more.
    ecmwf.reload("[policy]\ncores = 2\nfederations = 2\n")
    world.fed("down", "second")
    world.up("--name", "third", sites=["ecmwf"], workers=1)
    world.fed("down", "third")
    world.fed("down")
    refusal = calls(ecmwf, "Start")[2]
    assert refusal["outcome"] == "exhausted"
    assert refusal["operator"] == name


def test_a_federation_has_a_longest_life(world: World, ecmwf: Site) -> None:
    ecmwf.reload('[policy]\nlifetime = "30s"\n')
    world.up("--lease", "6s", sites=["ecmwf"], workers=1)
    until(lambda: ecmwf.federations, wanted=lambda found: not found)
    refused = [line for line in calls(ecmwf, "Renew") if line["outcome"] == "exhausted"]
    assert "live for at most 30s (lifetime)" in refused[0]["message"]
    world.fed("down")


def test_the_longest_life_counts_over_a_restart_of_the_agent(world: World, ecmwf: Site) -> None:
    ecmwf.reload('[policy]\nlifetime = "20s"\n')
    world.up("--lease", "6s", sites=["ecmwf"], workers=1)
    (folder,) = ecmwf.federations
    record = json.loads((folder / "federation.json").read_text())
    ecmwf.end(signal.SIGTERM)
    # As if it had begun an hour ago.
    record["began"] -= 3600
    (folder / "federation.json").write_text(json.dumps(record))
    ecmwf.start()
    until(lambda: [line for line in calls(ecmwf, "Renew") if line["outcome"] == "exhausted"])
    until(lambda: ecmwf.federations, wanted=lambda found: not found)
    world.fed("down")


def _marks(path: str) -> list[tuple[list[str], str | None]]:
    from distributed import get_client

    return list(get_client().run(_mark, path).values())


def _mark(path: str) -> tuple[list[str], str | None]:
    return sorted(each.name for each in Path(path).iterdir()), os.environ.get("MARK")


def test_workers_of_a_configuration_that_was_read_again(
    world: World, ecmwf: Site, request: pytest.FixtureRequest
) -> None:
    """A data root that is a link out of another one, and an interpreter for some operators."""
    notebooks.register(request.module)
    tree, volume = world.folder / "tree", world.folder / "volume"
    for folder in (tree, volume / "deep"):
        folder.mkdir(parents=True)
    (volume / "deep" / "chunk").touch()
    (tree / "link").symlink_to(volume / "deep")
    ecmwf.data = [str(tree), str(tree / "link")]
    (operator,) = json.loads(ecmwf.run("operators", "--output", "json"))
    ecmwf.reload(
        f'[[operator]]\nfingerprint = "{operator["fingerprint"]}"\n'
        f'python = "{world.paths.python}"\nprologue = "export MARK=own"\n'
    )
    world.up(sites=["ecmwf"], workers=1)
    with world.notebook() as notebook:
        notebook.connect()
        assert notebook(_marks, str(tree / "link")) == [(["chunk"], "own")]
    world.fed("down")


def test_a_wrong_file_keeps_the_earlier_one(world: World, ecmwf: Site) -> None:
    ecmwf.reload("[policy]\nwokers = 1\n")
    file = ecmwf.folder / "agent.toml"
    place = f"{file}:{1 + file.read_text().splitlines().index('wokers = 1')}: policy.wokers"
    assert f"{place}: there is no such key" in ecmwf.log
    assert "did you mean workers?" in ecmwf.log
    assert "what was read before stays" in ecmwf.log
    nope = 'python = "/nope"'
    ecmwf.reload(f"[policy]\n{nope}\n")
    line = 1 + file.read_text().splitlines().index(nope)
    until(lambda: f"{file}:{line}: policy.python: cannot start Python" in ecmwf.log)
    ecmwf.reload("[policy]\nwokers = 1\n")
    world.up(sites=["ecmwf"], workers=2)
    world.fed("down")
    mistake = fails(ecmwf, "invite", code=USAGE)
    assert place in mistake
    ecmwf.policy = ""
    ecmwf.configure()
    text = (ecmwf.folder / "agent.toml").read_text()
    (ecmwf.folder / "agent.toml").write_text(f'listen = "[::]:4999"\n{text}')
    assert ecmwf.agent is not None
    ecmwf.agent.send_signal(signal.SIGHUP)
    until(lambda: "was read again" in ecmwf.log)
    assert 'counts after a restart key="listen"' in ecmwf.log
    world.up(sites=["ecmwf"], workers=1)
    world.fed("down")


def test_every_call_is_noted(world: World, ecmwf: Site) -> None:
    name = own_name(ecmwf)
    world.up(sites=["ecmwf"], workers=1)
    federation = world.status()["federation"]
    world.fed("down")
    by_call = {line["call"]: line for line in ecmwf.audit}
    assert {"Enrol", "Describe", "Prepare", "Connect", "Probe", "Start", "Watch", "Leave"} <= set(
        by_call
    )
    (operator,) = json.loads(ecmwf.run("operators", "list", "--output", "json"))
    for call, line in by_call.items():
        assert line["operator"] == name
        assert line["outcome"] == "ok"
        assert line["peer"].rsplit(":", 1)[0].strip("[]").removeprefix("::ffff:") in {
            world.operator.addr4,
            world.operator.addr6,
        }
        if call != "Enrol":
            assert line["fingerprint"] == operator["fingerprint"]
        if call not in ("Enrol", "Describe"):
            assert line["federation"] == federation
    audit = ecmwf.state / "audit.jsonl"
    assert audit.stat().st_mode & 0o777 == 0o600
    # As logrotate does.
    audit.rename(audit.with_suffix(".jsonl.1"))
    ecmwf.reload("")
    until(audit.exists)
    world.up(sites=["ecmwf"], workers=1)
    world.fed("down")
    assert calls(ecmwf, "Prepare")[0]["outcome"] == "ok"


def test_a_removed_operator_has_nothing_left(world: World, ecmwf: Site) -> None:
    name = own_name(ecmwf)
    # The site's network devices and processes as they are without a federation.
    world.lab.snapshot()
    world.up(sites=["ecmwf"], workers=1)
    assert "no operator is called nobody" in fails(
        ecmwf, "operators", "remove", "nobody", code=UNKNOWN
    )
    removed = json.loads(ecmwf.run("operators", "remove", name, "--output", "json"))
    assert removed["ended"] == 1
    assert ecmwf.federations == []
    assert json.loads(ecmwf.run("operators", "--output", "json")) == []
    refused = world.up("--name", "again", sites=["ecmwf"], code=SITE).stderr
    assert "is not enrolled there (any more)" in refused
    until(lambda: [line for line in ecmwf.audit if line["outcome"] == "refused"])
    (first, *_) = calls(ecmwf, "handshake")
    assert first["message"] == f"removed operator {name}"
    assert calls(ecmwf, "RemoveOperator")[0]["message"] == "1 federations ended"
    world.fed("down")
    assert world.lab.leftovers() == []
    # An invitation lets them in again.
    world.fed("site", "add", "ecmwf", "-", input=ecmwf.run("invite"))
    world.up(sites=["ecmwf"], workers=1)
    world.fed("down")


def test_an_operator_who_was_removed_while_no_agent_ran(world: World, ecmwf: Site) -> None:
    name = own_name(ecmwf)
    world.up(sites=["ecmwf"], workers=1)
    ecmwf.end(signal.SIGTERM)
    assert name in ecmwf.run("operators", "remove", name)
    assert len(ecmwf.federations) == 1
    ecmwf.start()
    until(lambda: ecmwf.federations, wanted=lambda found: not found)
    assert "ended what an operator ran who is not enrolled any more" in ecmwf.log
    world.fed("down")


def test_spent_expired_and_strange_keys_are_refused(world: World, ecmwf: Site) -> None:
    used = ecmwf.run("invite")
    world.fed("site", "add", "ecmwf", used)
    again = world.fed("site", "add", "ecmwf", used, code=SITE).stderr
    assert "does not take this invitation" in again
    assert "has this site already" in again
    late = ecmwf.run("invite", "--expires", "0s")
    assert "has expired" in world.fed("site", "add", "ecmwf", late, code=SITE).stderr
    # One that the operator takes for valid, and the site does not any more.
    late = ecmwf.run("invite")
    for pending in (ecmwf.state / "invitations").iterdir():
        pending.write_text(json.dumps({**json.loads(pending.read_text()), "expires": 1}))
    assert "too old" in world.fed("site", "add", "ecmwf", late, code=SITE).stderr
    # Somebody who knows where the agent is, and with which key, but is not enrolled.
    other = world.folder / "operator" / "other"
    other.mkdir(mode=0o700)
    shutil.copy(world.state / "sites.json", other)
    program, *arguments = world.up_arguments(sites=["ecmwf"])
    refused = world.operator.run(
        [world.paths.fed, "--state", str(other), program, *arguments],
        env=programs.environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert refused.returncode == SITE, refused.stderr
    assert "is not enrolled there" in refused.stderr
    told = [line["message"] for line in calls(ecmwf, "handshake")]
    assert told == ["used invitation", "expired invitation", "stranger"]
    assert ecmwf.log.count("connection refused") == 3


def test_the_agents_key_changes(world: World, ecmwf: Site) -> None:
    """Who calls while the new key is announced needs no invitation; who does not, does."""
    before = json.loads(world.fed("site", "list", "--output", "json").stdout)["ecmwf"]
    new = ecmwf.run("rotate", "--after", "1h")
    until(lambda: "a new key is announced" in ecmwf.log)
    world.up(sites=["ecmwf"], workers=1)
    learnt = json.loads(world.fed("site", "list", "--output", "json").stdout)["ecmwf"]
    assert learnt == {**before, "next": new}
    # The federation goes on over the change.
    assert ecmwf.run("rotate", "--after", "0s") == new
    until(lambda: "the agent uses its new key" in ecmwf.log)
    assert world.status()["members"][1]["problem"] is None
    world.up("--name", "second", sites=["ecmwf"], workers=1)
    after = json.loads(world.fed("site", "list", "--output", "json").stdout)["ecmwf"]
    assert after == {"address": before["address"], "fingerprint": new}
    world.fed("down", "second")
    world.fed("down")
    # Changed twice while nobody called.
    ecmwf.run("rotate", "--after", "0s")
    until(lambda: ecmwf.log.count("the agent uses its new key") == 2)
    refused = world.up(sites=["ecmwf"], code=SITE).stderr
    assert "is not the agent that was enrolled" in refused
    assert "fed site add" in refused
    world.fed("site", "add", "ecmwf", "-", input=ecmwf.run("invite"))
    world.up(sites=["ecmwf"], workers=1)
    world.fed("down")


def test_the_operators_key_changes(world: World, ecmwf: Site) -> None:
    """A federation that is up goes on with the old key, and what comes later has the new one."""
    (old,) = json.loads(ecmwf.run("operators", "--output", "json"))
    world.up()
    world.sites["eumetsat"].end()
    refused = world.fed("site", "rotate", code=SITE).stderr
    assert "the old key stays in use" in refused
    assert "eumetsat" in refused
    world.sites["eumetsat"].start()
    new = world.fed("site", "rotate").stdout.strip()
    keys = {each["fingerprint"]: each for each in json.loads(
        ecmwf.run("operators", "--output", "json"))}  # fmt: skip
    assert set(keys) == {old["fingerprint"], new}
    assert keys[new]["first"] == old["fingerprint"]
    assert keys[old["fingerprint"]]["until"] > old["enrolled"]
    assert [member["problem"] for member in world.status()["members"]] == [None] * 3
    world.up("--name", "second", workers=1)
    assert calls(ecmwf, "Prepare")[-1]["fingerprint"] == new
    world.fed("down", "second")
    # The new key may end what the old one began, whose `fed up` has died.
    (up,) = world.pids("operator", "--supervised")
    os.kill(up, signal.SIGKILL)
    world.fed("down")
    assert ecmwf.federations == []
    assert ecmwf.run("operators", "remove", new).count("SHA256:") == 2
    assert "is not enrolled there (any more)" in world.up(code=SITE).stderr


def test_a_port_or_a_state_folder_that_is_taken(ecmwf: Site) -> None:
    assert "another program has the port" in fails(ecmwf, "run", code=TAKEN)
    text = (ecmwf.folder / "agent.toml").read_text()
    (ecmwf.folder / "agent.toml").write_text(f'listen = "[::]:4999"\n{text}')
    assert "another agent runs with the state folder" in fails(ecmwf, "run", code=TAKEN)


def test_what_this_host_lacks_is_told_at_once(ecmwf: Site) -> None:
    """`init` and `run` try the namespaces and the device before anything else."""
    ecmwf.end()
    for command in ("init", "run"):
        script = 'mount -t tmpfs none /dev/net && exec "$@"'
        arguments = ["unshare", "--mount", "sh", "-ec", script, "sh", *ecmwf.command(command)]
        done: subprocess.CompletedProcess[str] = ecmwf.host.run(
            arguments,
            env=programs.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 7, done.stderr
        assert "/dev/net/tun" in done.stderr
        assert "modprobe tun" in done.stderr


def test_init_writes_nothing_that_does_not_work(ecmwf: Site) -> None:
    """A refused `init` leaves no file, and one that exists is not passed over."""
    config = ecmwf.state / "new" / "agent.toml"
    named = ["--config", str(config), "--name", "new", "--address", "new.example:4799"]
    above = ecmwf.folder / "data" / "up"
    above.parent.mkdir()
    above.symlink_to(".")

    def init(*flags: str) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = ecmwf.host.run(
            [ecmwf.paths.fed, "agent", "init", *named, *flags],
            env=programs.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        return done

    python = ["--python", ecmwf.paths.python]
    for flags, code, told in [
        (["--python", "/opt/none/bin/python"], HOST, "/opt/none/bin/python"),
        ([*python, "--data", "/data/none"], USAGE, "--data: /data/none does not exist"),
        ([*python, "--data", "/"], USAGE, '--data: "/" would show workers the whole host'),
        ([*python, "--data", str(above)], USAGE, f"--data: {above} leads to {above.parent}, a"),
        ([*python, "--user", "nobody-at-all"], USAGE, "--user: user"),
    ]:
        refused = init(*flags)
        assert refused.returncode == code, refused.stderr
        assert told in refused.stderr
        assert not config.exists()
    contradicted = fails(ecmwf, "init", "--python", "/opt/none/bin/python", code=USAGE)
    assert f"{ecmwf.folder}/agent.toml exists, and its python is" in contradicted
