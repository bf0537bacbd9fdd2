"""The list of workers that `fed status` shows."""

from __future__ import annotations

import json
from typing import Any

from tornado.httpclient import AsyncHTTPClient

from fed.listing import PATH
from tests.python.inprocess import pooled


@pooled(north=(1,), south=(3,))
async def test_workers_are_listed_while_tasks_run_and_after(c: Any, s: Any, a: Any, b: Any) -> None:
    await c.submit(sum, [1, 2])
    await a.heartbeat()
    await b.heartbeat()
    answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{s.http_server.port}{PATH}")
    workers = json.loads(answer.body)["workers"]
    assert {worker["name"] for worker in workers.values()} == {str(a.name), str(b.name)}
    assert workers[b.address]["nthreads"] == 3
    assert workers[b.address]["resources"] == {"pool-south": 1}
    assert workers[a.address]["memory_limit"] == a.memory_manager.memory_limit
