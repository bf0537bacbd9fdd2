"""A pool without workers: told at once, waited for, and not for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from distributed import Event, wait

from fed.errors import EmptyPoolError
from fed.vacancies import TIMEOUT_VARIABLE, Vacancies, timeout_from_environment
from tests.python.inprocess import SOUTH, pooled

HOUR = 3600.0


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def hold(name: str, number: int) -> int:
    Event(name).wait()
    return number


def watched(scheduler: Any) -> tuple[Vacancies, Clock]:
    """Return the plugin of a scheduler, on a clock of the test's own."""
    vacancies: Vacancies = scheduler.plugins[Vacancies.name]
    assert vacancies.timeout == 600
    vacancies.clock = clock = Clock()
    return vacancies, clock


def warnings_of(scheduler: Any) -> list[str]:
    """Return what clients have been warned of."""
    return [text for _, text in scheduler.get_events("warn")]


@pooled(north=(1,), south=(1,))
async def test_tasks_that_wait_too_long_fail_and_say_why(c: Any, s: Any, a: Any, b: Any) -> None:
    vacancies, clock = watched(s)
    (south,) = [worker for worker in (a, b) if f"pool-{SOUTH}" in worker.state.total_resources]
    held = c.map(hold, ["go"] * 20, range(20), resources={"pool-south": 0}, pure=False)
    total = c.submit(sum, held)
    free = c.map(hold, ["go"] * 3, range(3), resources={"pool-north": 0}, pure=False)
    while not south.state.executing_count:
        await asyncio.sleep(0.01)
    assert not warnings_of(s)
    await south.close(executor_wait=False)
    while not warnings_of(s):
        await asyncio.sleep(0.01)
    (warning,) = warnings_of(s)
    assert "pool 'south' of site 'south' has no workers: 20 tasks wait for it" in warning
    clock.now = 599
    vacancies.look()
    assert not held[0].done()
    clock.now = 600
    vacancies.look()
    await wait([*held, total])
    with pytest.raises(EmptyPoolError, match=r"'hold' has waited 10 min for pool 'south' of site"):
        await held[0]
    with pytest.raises(EmptyPoolError):
        await total
    assert {future.status for future in held} == {"error"}
    await Event("go").set()
    assert await c.gather(free) == [0, 1, 2]
    assert len(warnings_of(s)) == 1


@pooled(north=(1,))
async def test_a_pool_that_gets_a_worker_again_goes_on(c: Any, s: Any, a: Any) -> None:
    from distributed import Worker

    vacancies, clock = watched(s)
    s.plugins[Vacancies.name].sites["south"] = "met"
    late = c.submit(int, 7, resources={"pool-south": 0})
    while not s.unrunnable:
        await asyncio.sleep(0.01)
    vacancies.look()
    assert "pool 'south' of site 'met' has no workers: 1 task waits" in warnings_of(s)[0]
    assert "`fed logs --only met`" in warnings_of(s)[0]
    clock.now = 300
    vacancies.look()
    async with Worker(s.address, resources={"pool-south": 1}):
        assert await late == 7
        vacancies.look()
        assert not vacancies.waiting_since
    # The next that waits has its own time.
    clock.now = 3 * HOUR
    again = c.submit(int, 8, resources={"pool-south": 0})
    while not s.unrunnable:
        await asyncio.sleep(0.01)
    vacancies.look()
    clock.now += 599
    vacancies.look()
    assert not again.done()
    assert len(warnings_of(s)) == 2


def test_the_time_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timeout_from_environment() == 600
    monkeypatch.setenv(TIMEOUT_VARIABLE, "90 s")
    assert timeout_from_environment() == 90
    monkeypatch.setenv(TIMEOUT_VARIABLE, "soon")
    with pytest.raises((ValueError, KeyError)):
        timeout_from_environment()
