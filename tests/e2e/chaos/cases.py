"""The table: what happens, when, and what the user is to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.chaos import faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.world import World

RIGHT = "the right answer"
"""What a user sees who notices nothing."""


UP = "the federation comes up"
"""What a user sees who notices nothing of what happens on the way up."""


IN_VAIN, REPLACED = "4s", "60s"
"""How long tasks wait for a pool without workers.

Short, where a pool that loses its workers does so for good, or no pool may come to be without: a
site whose mesh or agent is away for a while keeps its workers, and a row that loses them fails.
Long, where the only worker of a pool dies and another starts: a Python and its imports take 4 s and
more where others build and test beside it. How long it took stands in the report.
"""


@dataclass(frozen=True)
class Case:
    """One row.

    Parameters
    ----------
    fault
        What happens; its first line of documentation stands in the report.
    saw
        `RIGHT`, `UP`, or a regular expression that what the user is told matches.
    step
        The line of `fed up`'s checklist after which it happens; none: while tasks run.
    tasks
        Tasks per pool of the computation, of 0.2 s each.
    pool_timeout
        How long tasks wait for a pool without workers.
    after
        What is done once everything else has been looked at, so that the next row can begin.
    """

    fault: Callable[[World], None]
    saw: str
    step: str | None = None
    tasks: int = 40
    pool_timeout: str = IN_VAIN
    after: Callable[[World], None] | None = None

    @property
    def name(self) -> str:
        """What pytest calls it."""
        return f"{self.fault.__name__}, {self.when}"

    @property
    def when(self) -> str:
        """When it happens, in the report."""
        return f'`fed up` says "{self.step}"' if self.step else "tasks run"

    @property
    def what(self) -> str:
        """What happens, as a sentence."""
        return (self.fault.__doc__ or "").split("\n", 1)[0].rstrip(".")


EMPTY = r"EmptyPoolError: .*has waited .* for pool 'ecmwf' of site 'ecmwf'"
BOTH_EMPTY = EMPTY.replace("ecmwf", "(ecmwf|eumetsat)")
LOST = r"(CancelledError|CommClosedError|TimeoutError|OSError)"
"""What a client of Dask raises that has lost its scheduler."""

NODE_DIED = r"error: ecmwf: (its part has ended: |the federation has ended here: )?its node died"
"""Either of two ways in which it comes to be known may be the faster."""

VICTIMS = {
    faults.kill_operator: r"^$",
    faults.kill_agent: r"error: ecmwf: ",
    faults.kill_outer_node: rf"{NODE_DIED}$",
    faults.kill_inner_node: rf"{NODE_DIED}$",
    faults.kill_scheduler: r"error: operator: the scheduler ended \(signal 9\)",
    faults.kill_nanny: r"error: ecmwf: worker ecmwf-1-0 ended by itself",
    faults.kill_worker: r"error: ecmwf: worker ecmwf-1-0 ended by itself .*Nanny failed to start",
}
"""Who can be killed, in the order in which they come to be, and what the user is to see then."""

PHASES = {
    "ecmwf: answered": 2,
    "ecmwf: node started": 4,
    "ecmwf: keys exchanged": 5,
    "ecmwf: workers started": 7,
}
"""Lines of the checklist, and how many of the victims there are by then."""

NOT_MISSED = {(faults.kill_agent, "ecmwf: workers started")}
"""Of these, nothing comes to be missed: workers need no agent."""

OPERATORS_NODE_DIED = r"error: operator: its node died"

OPERATORS_NODE = tuple(
    Case(fault, OPERATORS_NODE_DIED, step)
    for fault, step in (
        (faults.kill_operators_outer_node, "operator: node started"),
        (faults.kill_operators_inner_node, "operator: node started"),
        (faults.kill_operators_inner_node, "ecmwf: keys exchanged"),
        (faults.kill_operators_outer_node, "ecmwf: workers started"),
    )
)
"""Either half, while something waits for the node: the scheduler, the mesh, the workers."""

TWO_ON_THE_WAY_UP = (
    Case(
        faults.stop_operators_outer_node_and_kill_operator,
        VICTIMS[faults.kill_operator],
        "ecmwf: workers started",
    ),
)
"""Two at once: what is left of an operator that cannot end by itself is for `fed down` to end."""

ON_THE_WAY_UP = (
    *(
        Case(fault, UP if (fault, step) in NOT_MISSED else saw, step)
        for step, there in PHASES.items()
        for fault, saw in list(VICTIMS.items())[:there]
    ),
    *OPERATORS_NODE,
    *TWO_ON_THE_WAY_UP,
)

IN_A_COMPUTATION = (
    Case(faults.kill_operator, LOST),
    Case(faults.kill_agent, RIGHT, tasks=15),
    Case(faults.restart_agent, RIGHT),
    Case(faults.kill_outer_node, EMPTY),
    Case(faults.kill_inner_node, EMPTY),
    Case(faults.kill_operators_outer_node, LOST),
    Case(faults.kill_operators_inner_node, LOST),
    Case(faults.kill_scheduler, LOST),
    Case(faults.kill_nanny, RIGHT, pool_timeout=REPLACED),
    Case(faults.kill_worker, RIGHT, pool_timeout=REPLACED),
    Case(faults.cut_briefly, RIGHT),
    Case(faults.cut_off, EMPTY, after=faults.mend),
    Case(faults.cut_control_briefly, RIGHT),
    Case(faults.cut_control, EMPTY, tasks=150, after=faults.mend),
    Case(faults.cut_mesh_briefly, RIGHT),
    Case(faults.cut_mesh, RIGHT, after=faults.mend),
    Case(faults.stop_agent_briefly, RIGHT),
    Case(faults.stop_outer_node_briefly, RIGHT),
    Case(faults.stop_operators_outer_node_briefly, RIGHT),
    Case(faults.stop_scheduler_briefly, RIGHT),
    Case(faults.stop_inner_node_briefly, RIGHT),
    Case(faults.stop_worker_briefly, RIGHT),
    Case(faults.stop_operator_briefly, RIGHT),
    Case(faults.stop_operator_beyond_the_lease, BOTH_EMPTY, tasks=150),
    Case(faults.stop_agent_beyond_the_lease, EMPTY, tasks=150),
    Case(faults.stop_outer_node, EMPTY, tasks=150),
    Case(faults.stop_operators_outer_node, LOST, tasks=150),
    Case(faults.stop_inner_node, RIGHT),
    Case(faults.stop_scheduler_beyond_the_lease, RIGHT),
    Case(faults.stop_worker_beyond_the_lease, RIGHT),
    Case(faults.freeze_site, EMPTY),
    Case(faults.stop_inner_node_without_agent, RIGHT, tasks=15, after=faults.await_end_of_node),
    Case(faults.stop_operators_inner_node_and_kill_operator, LOST),
)
