"""The oracle of the placement benchmark, beside all placements there are."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from tests.bench.oracle import Graph, Ran, minimum


def least_of_all(ran: dict[Any, Ran], pools: tuple[str, ...]) -> int:
    graph = Graph.of(ran, {})
    free = [key for key in ran if key not in graph.pins]
    least = None
    for chosen in itertools.product(pools, repeat=len(free)):
        where = {**graph.pins, **dict(zip(free, chosen, strict=True))}
        cost = sum(
            nbytes * len({where[user] for user in users} - {where[producer]})
            for producer, nbytes, users in graph.outputs
        )
        least = cost if least is None else min(least, cost)
    assert least is not None
    return least


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("pools", [("a", "b"), ("a", "b", "c")])
def test_the_minimum_is_that_of_all_placements(pools: tuple[str, ...], seed: int) -> None:
    generator = random.Random(seed)
    ran: dict[Any, Ran] = {}
    for number in range(10):
        inputs = generator.sample(range(number), min(number, generator.randrange(4)))
        pool = generator.choice(pools) if not inputs or number == 9 else None
        ran[number] = Ran(generator.randrange(1, 100), tuple(inputs), pool)
    assert minimum(ran, pools) == least_of_all(ran, pools)


def test_a_relay_is_taken_for_its_input() -> None:
    ran = {
        "source": Ran(100, (), "a"),
        "fed-relay-b-source": Ran(100, ("source",), None),
        "first": Ran(1, ("fed-relay-b-source", "near"), None),
        "second": Ran(1, ("fed-relay-b-source", "near"), None),
        "near": Ran(500, (), "b"),
    }
    assert minimum(ran, ("a", "b")) == 100


def test_a_shuffle_moves_a_share_of_every_input_to_every_output() -> None:
    ran: dict[Any, Ran] = {
        **{("in", n): Ran(100, (), "a" if n < 3 else "b") for n in range(4)},
        **{("transfer", n): Ran(0, (("in", n),), None) for n in range(4)},
        "shuffle-barrier-x": Ran(0, tuple(("transfer", n) for n in range(4)), None),
        **{("out", n): Ran(100, ("shuffle-barrier-x",), None) for n in range(4)},
    }
    shards = {"shuffle-barrier-x": 400}
    assert minimum(ran, ("a", "b"), shards) == 100  # all outputs in a
    for n in range(4):
        ran["end", n] = Ran(1, (("out", n),), "b" if n < 2 else "a")
    # Two outputs are needed in b: three quarters of each, and a quarter of each of the others.
    assert minimum(ran, ("a", "b"), shards) == 2 * 75 + 2 * 25
