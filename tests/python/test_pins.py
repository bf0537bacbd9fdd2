"""The marker: what carries it, where it is found again, and what it refuses."""

from __future__ import annotations

import asyncio
import functools
import operator
import pickle
from typing import Any
from unittest.mock import MagicMock

import dask
import pytest
from dask._task_spec import Alias, DataNode, Dict, List, Task, TaskRef
from dask.tokenize import tokenize
from distributed.protocol.pickle import dumps
from distributed.utils import iscoroutinefunction

import fed
from fed.pins import POOL_ATTRIBUTE, POOL_VARIABLE, Pinned, find_pools, pin_node


class Wrapped:
    """An array wrapper that says where its data is."""

    def __init__(self, pool: str) -> None:
        setattr(self, POOL_ATTRIBUTE, pool)


def read(path: str, *_rest: Any) -> str:
    return path


PINNED = Pinned(read, "north")


@pytest.mark.parametrize(
    ("node", "pools"),
    [
        (Task("k", read, "x"), set()),
        (Task("k", PINNED, "x"), {"north"}),
        (Task("k", functools.partial(PINNED, "x")), {"north"}),
        (Task("k", read, Task(None, PINNED, "x")), {"north"}),
        (Task("k", read, rest=Task(None, PINNED, "x")), {"north"}),
        (Task("k", read, List(Task(None, PINNED, "x"))), {"north"}),
        (Task("k", read, Dict({"a": Task(None, PINNED, "x")})), {"north"}),
        (Task("k", Pinned(read, "south"), Task(None, PINNED, "x")), {"north", "south"}),
        (List(TaskRef("a"), Task(None, PINNED, "x")), {"north"}),
        (DataNode("k", Wrapped("south")), {"south"}),
        (DataNode("k", 1), set()),
        (Alias("k", "other"), set()),
        ((PINNED, "x"), {"north"}),
        ((read, [(PINNED, "x")]), {"north"}),
        (Task.fuse(Task("a", PINNED, "x"), Task("b", read, TaskRef("a"))), {"north"}),
        (
            Task.fuse(
                Task.fuse(Task("a", PINNED, "x"), Task("b", read, TaskRef("a"))),
                Task("c", Pinned(read, "south"), TaskRef("b")),
            ),
            {"north", "south"},
        ),
    ],
)
def test_pools_are_found_wherever_a_marker_can_be(node: Any, pools: set[str]) -> None:
    assert find_pools(node) == pools
    assert find_pools(pickle.loads(dumps(node))) == pools


def test_a_shared_subgraph_is_walked_once() -> None:
    inner = {"a": Task("a", PINNED, "x")}
    fused = Task.fuse(Task("a", PINNED, "x"), Task("b", read, TaskRef("a")))
    memo: dict[int, frozenset[str]] = {}
    find_pools(fused, memo)
    assert list(memo.values()) == [frozenset({"north"})]
    memo[id(inner)] = frozenset({"known"})
    shared = Task("k", fused.func, inner, "a", ())
    assert find_pools(shared, memo) == {"known"}


@pytest.mark.parametrize(
    "node",
    [
        Task("k", operator.add, 1, 2),
        Task("k", operator.add, Task(None, int, 1), b=2),
        Task("k", sum, List(Task(None, int, 1), Task(None, int, 2))),
        Task.fuse(Task("a", int, "1"), Task("b", operator.neg, TaskRef("a"))),
        DataNode("k", 3),
        (operator.add, 1, (int, "2")),
    ],
)
def test_marking_changes_nothing_but_where_it_runs(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = pin_node(node, "north")
    assert find_pools(pinned) == {"north"}
    monkeypatch.setenv(POOL_VARIABLE, "south")
    with pytest.raises(fed.WrongPoolError):
        evaluate(pinned)
    monkeypatch.setenv(POOL_VARIABLE, "north")
    try:
        expected = evaluate(node)
    except TypeError:  # not every call of the table is meant to succeed
        with pytest.raises(TypeError):
            evaluate(pinned)
    else:
        assert evaluate(pinned) == expected


def evaluate(node: Any) -> Any:
    if isinstance(node, tuple):
        return dask.get({"k": node}, "k")
    return node({})


def test_each_argument_that_is_a_task_is_marked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments are evaluated before the outer function is called, so they must refuse first."""
    opened: list[str] = []
    node = pin_node(Task("k", read, List(Task(None, opened.append, "x"))), "north")
    monkeypatch.setenv(POOL_VARIABLE, "south")
    with pytest.raises(fed.WrongPoolError, match=r"pinned to pool 'north'.*in pool south"):
        node({})
    assert opened == []


def test_a_marked_node_keeps_its_first_pool_and_key() -> None:
    node = Task("k", PINNED, "x")
    assert pin_node(node, "south") is node
    assert pin_node(Task("k", read, "x"), "south").key == "k"
    assert pin_node(Task("k", read, TaskRef("dep")), "south").dependencies == {"dep"}


def test_nothing_runs_outside_every_pool() -> None:
    with pytest.raises(fed.WrongPoolError, match="outside every pool") as caught:
        PINNED("x")
    assert caught.value.pool == "north"
    assert caught.value.here == ()


def test_the_marker_is_part_of_tokens_equality_and_pickles() -> None:
    other = Pinned(read, "south")
    assert PINNED == Pinned(read, "north") != other
    assert hash(PINNED) == hash(Pinned(read, "north"))
    assert tokenize(PINNED) == tokenize(Pinned(read, "north")) != tokenize(other)
    assert pickle.loads(pickle.dumps(PINNED)) == PINNED
    assert PINNED.__name__ == "read"


def test_workers_still_await_a_pinned_coroutine_function(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer() -> int:
        return 42

    pinned = Pinned(answer, "north")
    assert iscoroutinefunction(pinned)
    assert not iscoroutinefunction(PINNED)
    monkeypatch.setenv(POOL_VARIABLE, "north")
    assert asyncio.run(pinned()) == 42


@pytest.mark.parametrize("name", ["PoolConflictError", "NotLazyError", "UnknownPoolError"])
def test_errors_travel_with_their_fields_and_notes(name: str) -> None:
    error = getattr(fed, name)("it failed", pool="north", pools=("north", "south"))
    error.add_note("at the site")
    copy: Any = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert isinstance(copy, fed.FedError)
    assert str(copy) == "it failed"
    assert vars(copy)["pools"] == ("north", "south")
    assert copy.__notes__ == ["at the site"]


@pytest.mark.parametrize("func", [dask.delayed(len), MagicMock()], ids=["delayed", "mock"])
def test_a_function_with_every_attribute_is_not_followed_for_ever(func: Any) -> None:
    """Such an object is what `client.submit(dask.delayed(len), …)` sends."""
    assert find_pools((func, 1)) == frozenset()
