"""Lists a scheduler's workers for `fed status`, over the scheduler's own HTTP server.

Dask's own page with them holds all that it knows of the scheduler, and fails while something in it
is no JSON, as after tasks have run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tornado.web import Application, RequestHandler

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

PATH = "/fed/workers.json"
"""Where the list is; `fed` asks for it through the gateway."""


class Workers(RequestHandler):
    """Answers with name, threads, memory limit in bytes and resources of each worker."""

    def initialize(self, scheduler: Scheduler) -> None:
        """Take the argument of the route."""
        self.scheduler = scheduler

    def get(self) -> None:
        """Answer a request."""
        workers: dict[str, Any] = {
            worker.address: {
                "name": str(worker.name),
                "nthreads": worker.nthreads,
                "memory_limit": worker.memory_limit or None,
                "resources": worker.resources,
            }
            for worker in self.scheduler.workers.values()
        }
        self.write({"workers": workers})


def list_workers(scheduler: Scheduler) -> None:
    """Serve the list from now on."""
    routes = [(PATH, Workers, {"scheduler": scheduler})]
    scheduler.http_application.add_application(Application(routes))
