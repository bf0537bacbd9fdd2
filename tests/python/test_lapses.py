"""Workers of a site whose lease lapses are removed before the site ends them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from distributed import Event, wait
from tornado.httpclient import AsyncHTTPClient

from fed.lapses import PATH
from tests.python.inprocess import pooled


def hold(name: str, number: int) -> int:
    Event(name).wait()
    return number


@pooled(north=(1,), south=(1, 1))
async def test_tasks_of_a_pool_that_lapses_wait_and_others_run_elsewhere(
    c: Any, s: Any, a: Any, b: Any, d: Any
) -> None:
    held = c.map(hold, ["go"] * 2, range(2), resources={"pool-south": 0}, pure=False)
    copied = await c.scatter(7, workers=[b.address])
    free = c.submit(int, copied, workers=[b.address], allow_other_workers=True)
    await wait(free)
    while sum(worker.state.executing_count for worker in (b, d)) < 2:
        await asyncio.sleep(0.01)
    answer = await AsyncHTTPClient().fetch(
        f"http://127.0.0.1:{s.http_server.port}{PATH}",
        method="POST",
        body=json.dumps({"pools": ["south", "elsewhere"]}),
    )
    assert json.loads(answer.body) == {"removed": 2}
    assert set(s.workers) == {a.address}
    assert {s.tasks[future.key].state for future in held} <= {"no-worker", "queued", "waiting"}
    assert not any(task.suspicious for task in s.tasks.values())
    await c.submit(Event("go").set)
    # They find that they have been removed, and end.
    await asyncio.gather(b.finished(), d.finished())
