"""The compiled part of fed, to be imported through `fed._native`."""

from collections.abc import Sequence
from typing import Final, final

from typing_extensions import Buffer

__version__: Final[str]

UNKNOWN: Final[int]
"""Size of an output of unknown size: taken to be that of the largest dependency."""
MAX_POOLS: Final[int]

FREE: Final[int]
"""Reason: any pool is as good; the task should be restricted to none."""
PINNED: Final[int]
"""Reason: one pool is allowed."""
PRESENT: Final[int]
"""Reason: the output is there already."""
WITH_INPUTS: Final[int]
"""Reason: its inputs are the cheapest to bring here."""
WITH_CONSUMERS: Final[int]
"""Reason: it is here for the sake of the tasks that need its output."""

@final
class Placement:
    """A pool per task, and what that costs. Pools are numbers from 0."""

    @property
    def pools(self) -> list[int]:
        """Pool of each task, -1 where any will do (a new list at each access).

        For an output that is present, one of the pools that hold it.
        """
    @property
    def reasons(self) -> bytes:
        """Why: for each task one of the reasons above."""
    @property
    def savings(self) -> list[float]:
        """What each task's best other pool would cost more (a new list at each access).

        In bytes times cost, all other tasks staying where they are; 0 where there is no other
        pool. With costs of 1 these are bytes.
        """
    @property
    def crossing_bytes(self) -> list[list[int]]:
        """Bytes that will cross, ``crossing_bytes[source][destination]``.

        An output's count once per destination. Free tasks are taken to run where they cost least.
        """
    @property
    def cost(self) -> float:
        """Cost of this placement, surcharge included, in bytes times cost."""
    @property
    def plain_cost(self) -> float:
        """Cost of the plain rule: pins kept, the rest where most bytes of their inputs lie.

        Never less than ``cost``.
        """
    @property
    def lower_bound(self) -> float:
        """No placement costs less; equal to ``cost`` where that is known to be the minimum."""
    @property
    def counts(self) -> list[tuple[int, int]]:
        """Number of tasks by reason: pairs of reason and number."""
    def __len__(self) -> int:
        """Return the number of tasks."""

def place(
    output_bytes: Buffer | Sequence[int],
    indptr: Buffer | Sequence[int],
    indices: Buffer | Sequence[int],
    allowed: Buffer | Sequence[int],
    cost: Sequence[Sequence[float]],
    capacity: Sequence[int] | None = None,
    *,
    present: Buffer | Sequence[int] | None = None,
    surcharge: float | None = None,
    slack: float = 0.0,
) -> Placement:
    """Choose a pool for every task, so that moving outputs between pools costs the least.

    Deterministic; releases the GIL. Arrays that have a buffer of the given type are copied at one
    stroke: ``array.array("Q")`` or ``numpy.uint64`` for 64 bits, ``array.array("I")`` or
    ``numpy.uint32`` for 32. Any other sequence of ints does too, more slowly.

    Parameters
    ----------
    output_bytes
        Size of each task's output in bytes, or `UNKNOWN`. Length n, 64 bits.
    indptr
        Offsets into ``indices``: task t depends on ``indices[indptr[t]:indptr[t + 1]]``. Length
        n + 1, 32 bits.
    indices
        Dependencies, as numbers of tasks. Tasks may stand in any order. 32 bits.
    allowed
        For each task the pools in which it may run, as bits: bit 0 for pool 0. One bit is a pin,
        0 means any. Length n, 64 bits.
    cost
        ``cost[source][destination]`` of a byte: a row and a column per pool. Any unit, for
        instance seconds; finite and at least 0; the diagonal is taken as 0.
    capacity
        Threads of each pool: between pools of the same cost, the larger wins.
    present
        For each task the pools whose workers hold its output already, as bits; 0 where it must
        still run. Length n, 64 bits. It is not placed, needs none of its inputs, and costs nothing
        in a pool that holds it.
    surcharge
        Extra cost, as a fraction of an output's, of each of its consumers in a foreign pool after
        the first: several workers of a pool may each fetch it. 0.05 when not given.
    slack
        A task stays free when its worst pool costs at most this much more than its best, in bytes
        times cost.

    Raises
    ------
    ValueError
        If the arrays contradict one another, name tasks or pools that are not there, or the graph
        has a cycle.
    TypeError
        If an argument is no array of integers that fit.
    """
