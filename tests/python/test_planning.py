"""Plans over plain graphs: sizes, shuffles kept together, relays."""

from __future__ import annotations

from operator import getitem
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask._task_spec import Alias, DataNode, List, Task, TaskRef

from fed.links import DEFAULT_RTT, DEFAULT_THROUGHPUT, Links
from fed.pins import Pinned
from fed.planning import Facts, Plan, make_plan
from fed.relays import gather_free, insert_relays, is_relay, relay_key
from fed.sizes import UNKNOWN_ROOT, Blocks, Estimator, Learned, blocks_of_layers, bytes_of_data

POOLS = ("north", "south")
MB = 1_000_000


def task(key: Any, *inputs: Any, func: Any = max) -> Task:
    return Task(key, func, *(TaskRef(name) for name in inputs))


def read(key: Any, pool: str, nbytes: int) -> Task:
    return Task(key, Pinned(int, pool, nbytes))


def plan(graph: dict[Any, Task], **facts: Any) -> Plan:
    pins = {k: t.func.pool for k, t in graph.items() if isinstance(t.func, Pinned)}
    given: dict[str, Any] = {
        "pools": POOLS,
        "pins": pins,
        "allowed": {},
        "present": {},
        "present_bytes": {},
        "costs": [[0.0, 1.0], [1.0, 0.0]],
        "threads": [2, 2],
        **facts,
    }
    order = {key: number for number, key in enumerate(graph)}
    return make_plan(graph, order, Estimator({}, Learned()), Facts(**given))


def test_the_smaller_input_travels() -> None:
    graph = {"a": read("a", "north", 9 * MB), "b": read("b", "south", MB), "c": task("c", "a", "b")}
    made = plan(graph)
    assert [made.pool_of(key) for key in "abc"] == ["north", "south", "north"]
    assert made.crossing == [[0, 0], [MB, 0]]


def test_an_item_travels_and_not_the_tuple_that_holds_it() -> None:
    north = [f"n{number}" for number in range(8)]
    graph = {key: read(key, "north", 9 * MB) for key in north}
    graph |= {"pair": task("pair", *north), "south": read("south", "south", 50 * MB)}
    graph["item"] = Task("item", getitem, TaskRef("pair"), 1)
    graph["both"] = task("both", "item", "south")
    made = plan(graph)
    assert [made.pool_of(key) for key in ("pair", "item", "both")] == ["north", "north", "south"]


class Barrier(Task):
    """As that of a peer-to-peer shuffle, a task of a type of its own."""


def test_what_passes_a_barrier_is_known_when_its_inputs_have_come() -> None:
    graph = {"barrier": Barrier("barrier", max, TaskRef("sent")), "out": task("out", "barrier")}
    sent: dict[str, Any] = {"present": {"sent": {"north"}}, "present_bytes": {"sent": 28}}
    made = plan(graph, **sent, passing={"barrier": 9 * MB})
    assert made.nbytes[made.index["out"]] == 9 * MB


def test_what_is_held_in_both_pools_does_not_travel() -> None:
    graph = {"b": read("b", "south", MB), "c": task("c", "a", "b")}
    made = plan(graph, present={"a": {"north", "south"}}, present_bytes={"a": 9 * MB})
    assert made.pool_of("c") == "south"
    assert made.crossing == [[0, 0], [0, 0]]


def test_a_restriction_of_the_user_binds() -> None:
    graph = {"a": read("a", "north", 9 * MB), "b": task("b", "a")}
    made = plan(graph, allowed={"b": {"south"}})
    assert made.pool_of("b") == "south"
    assert made.crossing == [[0, 9 * MB], [0, 0]]


def crossing_graph(consumers: int) -> dict[Any, Task]:
    graph: dict[Any, Task] = {("x-1", 0): read(("x-1", 0), "north", MB)}
    for number in range(consumers):
        mine, key = ("y-1", number), ("z-1", number)
        graph[mine] = read(mine, "south", 9 * MB)
        graph[key] = task(key, ("x-1", 0), mine)
    return graph


def relayed(graph: dict[Any, Any], crowded: tuple[str, ...] = POOLS) -> dict[Any, str]:
    order: dict[Any, Any] = {key: number for number, key in enumerate(graph)}
    made = plan(graph)
    relays = insert_relays(graph, order, made, crowded=crowded, mine=set(graph))
    assert order.keys() == graph.keys()
    return relays


def test_an_output_that_a_pool_needs_twice_crosses_through_a_relay() -> None:
    graph: dict[Any, Any] = dict(crossing_graph(3))
    key = relay_key(("x-1", 0), "south")
    assert relayed(graph) == {key: "south"}
    assert is_relay(key)
    assert graph[key].dependencies == {("x-1", 0)}
    assert all(key in graph["z-1", n].dependencies for n in range(3))
    assert all(("x-1", 0) not in graph["z-1", n].dependencies for n in range(3))
    assert graph[key]({("x-1", 0): 5}) == 5


def test_nothing_is_relayed_to_one_consumer_or_to_one_worker() -> None:
    assert relayed(dict(crossing_graph(1))) == {}
    assert relayed(dict(crossing_graph(3)), crowded=("north",)) == {}


def shared_by_free(consumers: int) -> dict[Any, Task]:
    """Make a graph of a source, free tasks that follow it, and tasks abroad that need the last."""
    graph: dict[Any, Task] = {"x": read("x", "north", MB)}
    graph["shifted"] = task("shifted", "x")
    graph["scaled"] = task("scaled", "shifted")
    for number in range(consumers):
        graph["y", number] = read(("y", number), "south", 9 * MB)
        graph["z", number] = task(("z", number), "scaled", ("y", number))
    return graph


def test_what_several_need_is_made_where_they_are() -> None:
    graph = shared_by_free(3)
    made = plan(graph)
    assert made.pool_of("scaled") is None
    gather_free(made, crowded=POOLS, mine=set(graph))
    assert made.pool_of("scaled") == "south"
    # One task needs this one: its output crosses once.
    assert made.pool_of("shifted") == "north"


@pytest.mark.parametrize(
    ("consumers", "crowded", "mine"),
    [(1, POOLS, {"scaled"}), (3, ("north",), {"scaled"}), (3, POOLS, set())],
)
def test_what_is_fetched_once_stays_free(
    consumers: int, crowded: tuple[str, ...], mine: set[Any]
) -> None:
    made = plan(shared_by_free(consumers))
    gather_free(made, crowded=crowded, mine=mine)
    assert made.pool_of("scaled") is None


def test_chunks_times_type_is_the_size() -> None:
    array = da.ones((100, 60), chunks=(50, 20), dtype="f4")
    blocks = blocks_of_layers(array.dask.layers)
    assert blocks[array.name].nbytes((1, 2)) == 50 * 20 * 4
    assert blocks[array.name].nbytes((1,)) is None
    assert Blocks(((np.nan,),), 8).nbytes((0,)) is None


def test_the_first_step_of_a_reduction_is_as_small_as_it_is() -> None:
    mean = da.ones((100, 60), chunks=(50, 20), dtype="f8").mean(axis=0)
    blocks = blocks_of_layers(mean.dask.layers)
    chunk = next(name for name in blocks if name.startswith("mean_chunk"))
    assert blocks[chunk].nbytes((1, 2)) == 2 * 20 * 8  # sums and counts


def test_sizes_that_are_learned_go_before_those_that_are_guessed() -> None:
    learned = Learned()
    estimator = Estimator({"x-1": Blocks(((10,),), 8)}, learned)
    key = ("x-1", 0)
    assert estimator.nbytes(key, task(key), []) == 80
    learned.add(key, "x", 500)
    learned.add(key, "x", 700)
    assert estimator.nbytes(key, task(key), []) == 600
    assert estimator.nbytes("x-2", task("x-2"), []) == 600  # of its prefix
    assert estimator.nbytes("other-2", task("other-2"), [3, 40]) == 40
    assert estimator.nbytes("other-2", task("other-2"), []) == UNKNOWN_ROOT


def test_a_name_that_stands_for_many_sizes_tells_nothing() -> None:
    learned = Learned()
    for nbytes in (10, 1000):
        learned.add("load-1", "load", nbytes)
    learned.add("getitem-1", "getitem", 10)
    assert learned.of_prefix("load-2") is None
    assert learned.of_prefix("getitem-2") is None


def test_a_collection_of_unlike_chunks_is_scaled_by_those_that_have_finished() -> None:
    learned = Learned()
    estimator = Estimator({"x-1": Blocks(((10, 1, 4),), 8)}, learned)
    learned.add(("x-1", 0), "x", 160, 80)
    assert estimator.nbytes(("x-1", 1), None, []) == 16
    assert estimator.nbytes(("x-1", 2), None, []) == 64


def test_a_piece_is_smaller_than_its_block() -> None:
    estimator = Estimator({"x-1": Blocks(((10,), (10,)), 8)}, Learned())
    index = (slice(0, 2, None), slice(5, 10, None))
    for cut in (getitem, da.chunk.getitem):
        piece = Task("piece", cut, TaskRef(("x-1", 0, 0)), index)
        assert estimator.nbytes("piece", piece, [800]) == 2 * 5 * 8
    halo = Task("halo", getitem, Alias(("x-1", 0, 0)), (slice(None), slice(-1, None)))
    assert estimator.nbytes("halo", halo, [800]) == 10 * 8
    assert estimator.nbytes("all", List(TaskRef("a"), TaskRef("b")), [3, 4]) == 7


def test_data_in_the_graph_is_measured_unless_it_is_lazy() -> None:
    assert bytes_of_data(np.ones(100)) == 800
    assert bytes_of_data(da.ones(10**9)) < 10_000
    node = DataNode("x", np.ones(100))
    assert Estimator({}, Learned()).nbytes("x", node, []) == 800


def test_links_have_defaults_and_two_directions() -> None:
    links = Links.from_json(
        '[{"source": "north", "destination": "south", "rtt": 0.1, "throughput": 1e6}]'
    )
    assert links.seconds("north", "south", 1_000_000) == pytest.approx(1.1)
    assert links.rtt("south", "north") == 0.1
    links.update([{"source": "south", "destination": "north", "rtt": 0.2}])
    assert links.rtt("south", "north") == 0.2
    assert links.throughput("south", "north") == 1e6
    assert links.rtt("south", "west") == DEFAULT_RTT
    assert links.throughput("south", "west") == 1e6
    assert Links().throughput("south", "west") == DEFAULT_THROUGHPUT
    assert Links(links.entries()).entries() == links.entries()


def test_what_a_measurement_leaves_out_stays() -> None:
    links = Links([{"source": "a", "destination": "b", "rtt": 0.1, "throughput": 1e6}])
    links.update([{"source": "a", "destination": "b", "rtt": 0.2}])
    links.update([{"source": "a", "destination": "b", "throughput": 2e6}])
    assert links.entries() == [
        {"source": "a", "destination": "b", "rtt": 0.2, "throughput": 2e6},
    ]


def test_costs_follow_throughput_in_powers_of_four() -> None:
    links = Links(
        [
            {"source": "a", "destination": "b", "throughput": 100e6},
            {"source": "a", "destination": "c", "throughput": 30e6},
            {"source": "b", "destination": "c", "throughput": 24e6},
        ]
    )
    assert links.costs(["a", "b", "c"]) == [[0, 1, 1], [1, 0, 4], [1, 4, 0]]


@pytest.mark.parametrize(
    "text", ["{", '[{"source": "a"}]', '[{"source": "a", "destination": "b", "throughput": 0}]']
)
def test_a_table_of_links_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="FED_LINKS holds no list of links"):
        Links.from_json(text)
