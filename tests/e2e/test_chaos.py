"""Whatever a federation loses, its user gets the right answer or one clear error, and all is clean.

The rows are those of `tests.e2e.chaos.cases`. They share a world, one federation after another:
that the next one comes up is a part of what each row shows.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e import notebook as notebooks
from tests.e2e import programs
from tests.e2e import world as worlds
from tests.e2e.chaos.cases import IN_A_COMPUTATION, ON_THE_WAY_UP, RIGHT, UP, Case
from tests.e2e.chaos.faults import VICTIM, mend
from tests.e2e.lab import ROOT
from tests.e2e.leftovers import Before
from tests.e2e.waiting import PATIENCE, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.world import World

OPTIONS = ("--lease", "10s")
UNREACHABLE = 5
CLEAN = 60.0
"""Seconds: the lease, the node's own grace of a few more, and a busy machine."""
ANSWER = 120.0
"""Seconds until the user has an answer; Dask takes 30 to give up on a silent peer."""
RECORD = "FED_CHAOS_RECORD"
"""Environment variable: a file to which each row appends what it measured, as a line of JSON."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[World]:
    import sys

    notebooks.register(sys.modules[__name__])
    with worlds.running(tmp_path_factory.mktemp("chaos"), data) as world:
        yield world


@pytest.fixture(autouse=True)
def _in_order(calm: World) -> Iterator[None]:
    """Whatever a row that fails leaves does not trouble the next one."""
    yield
    mend(calm)
    for site in calm.sites.values():
        if site.agent is not None and site.agent.poll() is not None:
            site.start()
    _down(calm)


def _down(world: World) -> None:
    """Run `fed down`, whether or not there is anything to end."""
    world.operator.run(
        world.command("down"),
        env=programs.environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


def _compute(tasks: int) -> int:
    """Compute on both pools, and leave a file where a task runs."""
    from distributed import get_client

    def slowly(number: int) -> int:
        (Path(os.environ["HOME"]) / "computing").touch()
        time.sleep(0.2)
        return number

    client = get_client()
    parts = [
        client.submit(slowly, number, resources={f"pool-{pool}": 0}, pure=False)
        for number in range(tasks)
        for pool in ("ecmwf", "eumetsat")
    ]
    return int(client.submit(sum, parts, pure=False).result())


def test_the_report_has_every_row() -> None:
    report = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for case in (*ON_THE_WAY_UP, *IN_A_COMPUTATION):
        assert f"| {case.what} | {case.when} |" in report, "`cargo xtask chaos` makes it anew"


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n", 1)[0]


def _record(case: Case, saw: str, answered: float, clean: float) -> None:
    if path := os.environ.get(RECORD):
        row = {
            "what": case.what,
            "when": case.when,
            "saw": saw,
            "answer_seconds": round(answered, 1),
            "clean_seconds": round(clean, 1),
        }
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _clean(world: World, before: Before, agent: Any) -> None:
    """Wait until nothing is left; ``agent`` is the victim's, as it was before."""
    site = world.sites[VICTIM]
    if site.agent is agent and agent is not None and agent.poll() is not None:
        site.start()
    for each in world.sites.values():
        until(lambda each=each: each.federations, lambda left: not left, patience=CLEAN)  # type: ignore[misc]
    restarted = site.agent is not agent
    if restarted:
        # It is a process that was not there before.
        site.end()
    if before.left(["operator"]):
        # What an operator leaves that was killed.
        _down(world)
    before.clean(patience=CLEAN)
    if restarted:
        site.start()


@pytest.mark.parametrize("case", ON_THE_WAY_UP, ids=lambda case: case.name)
def test_on_the_way_up(calm: World, case: Case) -> None:
    before, agent = Before.of(calm), calm.sites[VICTIM].agent
    up = calm.start_up(*OPTIONS, workers=1)
    assert up.stderr is not None
    assert case.step is not None
    assert any(case.step in line for line in up.stderr), f"fed up never said {case.step!r}"
    begun = time.monotonic()
    case.fault(calm)
    if case.saw == UP:
        assert up.stdout is not None
        assert "is up" in up.stdout.readline()
        answered = time.monotonic() - begun
        up.send_signal(signal.SIGINT)
    told = up.stderr.read()
    code = up.wait(timeout=ANSWER)
    if case.saw == UP:
        # What is not missed while the federation runs is when its site is to be told of the end.
        assert code == UNREACHABLE, told
        assert "ecmwf could not be told" in told
        saw = UP
    else:
        answered = time.monotonic() - begun
        assert code != 0, told
        errors = [line for line in told.splitlines() if line.startswith("error: ")]
        assert len(errors) <= 1
        saw = errors[0] if errors else ""
        assert re.search(case.saw, saw), told
    if case.after:
        case.after(calm)
    _clean(calm, before, agent)
    _record(case, saw or "nothing: the command is gone", answered, time.monotonic() - begun)


@pytest.mark.parametrize("case", IN_A_COMPUTATION, ids=lambda case: case.name)
def test_in_a_computation(calm: World, case: Case) -> None:
    before, agent = Before.of(calm), calm.sites[VICTIM].agent
    up = calm.up_in_foreground(*OPTIONS, "--pool-timeout", case.pool_timeout, workers=1)
    with calm.notebook() as notebook, ThreadPoolExecutor(1) as thread:
        notebook.connect()
        computing = thread.submit(notebook, _compute, case.tasks, patience=ANSWER)
        for site in calm.sites.values():
            until(lambda site=site: list(site.state.rglob("computing")))  # type: ignore[misc]
        begun = time.monotonic()
        case.fault(calm)
        saw = _answer(computing, case.tasks)
        answered = time.monotonic() - begun
    assert re.search(case.saw, saw), saw
    if up.poll() is None:
        up.send_signal(signal.SIGINT)
    up.communicate(timeout=PATIENCE)
    if case.after:
        case.after(calm)
    _clean(calm, before, agent)
    _record(case, saw, answered, time.monotonic() - begun)


def _answer(computing: Any, tasks: int) -> str:
    try:
        total = computing.result(timeout=ANSWER + PATIENCE)
    except Exception as error:  # noqa: BLE001 - what the user sees is what counts
        return _sentence(error)
    assert total == 2 * sum(range(tasks))
    return RIGHT
