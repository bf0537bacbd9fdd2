"""Removes the workers of a site whose lease is about to lapse, on the word of `fed up`.

The site is going to end them, and nobody may be able to say so: what they hold and run is made
anew elsewhere, or waits for the pool, instead of being waited for.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from tornado.web import Application, RequestHandler

from fed.names import pools_in

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

logger = logging.getLogger("fed.scheduler")

PATH = "/fed/lapsed.json"
"""Where `fed up` names the pools, through the gateway: ``{"pools": [...]}``."""


class Lapsed(RequestHandler):
    """Removes the workers of the pools that are named, and answers with their number."""

    def initialize(self, scheduler: Scheduler) -> None:
        """Take the argument of the route."""
        self.scheduler = scheduler

    async def post(self) -> None:
        """Answer a request."""
        pools = set(json.loads(self.request.body)["pools"])
        lost = [
            worker.address
            for worker in self.scheduler.workers.values()
            if pools & pools_in(worker.resources)
        ]
        for address in lost:
            # Not told to close: a worker that finds itself removed ends as one that has lost its
            # scheduler, and its site replaces it, should the lease be renewed after all. And its
            # tasks have done nothing suspicious.
            await self.scheduler.remove_worker(
                address, stimulus_id="fed-lease-lapses", expected=True, close=False
            )
        logger.warning("%d workers of %s removed: the lease lapses", len(lost), sorted(pools))
        self.write({"removed": len(lost)})


def heed_lapses(scheduler: Scheduler) -> None:
    """Serve this from now on."""
    routes = [(PATH, Lapsed, {"scheduler": scheduler})]
    scheduler.http_application.add_application(Application(routes))
