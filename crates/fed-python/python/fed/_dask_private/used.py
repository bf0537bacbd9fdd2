"""The private names of Dask that fed touches, and what this installation lacks of them."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

USED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("dask._expr", "Expr._determ_token", ()),
    ("dask._expr", "Expr._parameters", ()),
    ("dask._expr", "Expr.optimize", ("self",)),
    ("dask._task_spec", "Alias.__init__", ("self", "key", "target")),
    ("dask._task_spec", "DataNode.__init__", ("self", "key", "value")),
    ("dask._task_spec", "Dict", ()),
    ("dask._task_spec", "GraphNode.substitute", ("self", "subs", "key")),
    ("dask._task_spec", "NestedContainer.__init__", ("self", "args", "kwargs")),
    ("dask._task_spec", "GraphNode.fuse", ("tasks", "key")),
    ("dask._task_spec", "Task.__init__", ("self", "key", "func", "args", "_data_producer")),
    ("dask._task_spec", "TaskRef.__init__", ("self", "key")),
    ("dask._task_spec", "_execute_subgraph", ("inner_dsk", "outkey", "inkeys", "dependencies")),
    ("dask._task_spec", "convert_legacy_graph", ("dsk",)),
    ("dask.base", "clone_key", ("key", "seed")),
    ("dask.blockwise", "Blockwise.__init__",
     ("self", "output", "output_indices", "task", "indices", "numblocks", "concatenate",
      "new_axes", "output_blocks", "annotations", "io_deps")),
    ("dask.highlevelgraph", "MaterializedLayer.__init__", ("self", "mapping", "annotations")),
    ("dask.tokenize", "_tokenize", ("args", "kwargs")),
    ("distributed.client", "Client._scheduler_identity", ()),
    ("distributed.active_memory_manager", "ActiveMemoryManagerExtension._find_dropper",
     ("self", "ts", "candidates", "pending_drop")),
    ("distributed.active_memory_manager", "ActiveMemoryManagerExtension._find_recipient",
     ("self", "ts", "candidates", "pending_repl")),
    ("distributed.scheduler", "Scheduler._TRANSITIONS_TABLE", ()),
    ("distributed.scheduler", "Scheduler._add_to_processing", ("self", "ts", "ws", "stimulus_id")),
    ("distributed.scheduler", "Scheduler.stimulus_queue_slots_maybe_opened",
     ("self", "stimulus_id")),
    ("distributed.scheduler", "_task_slots_available", ("ws", "saturation_factor")),
    ("distributed.scheduler", "Scheduler._task_to_msg", ("self", "ts")),
    ("distributed.scheduler", "Scheduler.get_comm_cost", ("self", "ts", "ws")),
    ("distributed.scheduler", "Scheduler._create_taskstate_from_graph",
     ("self", "dsk", "keys", "ordered", "actors", "annotations_by_type", "global_annotations",
      "stimulus_id")),
    ("distributed.nanny", "Nanny.close_gracefully", ("self", "reason")),
    ("distributed.scheduler", "Scheduler.decide_worker_non_rootish", ("self", "ts")),
    ("distributed.scheduler", "Scheduler.transition", ("self", "key", "finish", "stimulus_id")),
    ("distributed.scheduler", "Scheduler.transitions", ("self", "recommendations", "stimulus_id")),
    ("distributed.scheduler", "Scheduler.validate_queued", ("self", "key")),
    ("distributed.scheduler", "Scheduler.valid_workers", ("self", "ts")),
    ("distributed.scheduler", "Scheduler.worker_objective", ("self", "ts", "ws")),
    ("distributed.scheduler", "TaskState._queueable", ()),
    ("distributed.scheduler", "_materialize_graph", ("expr", "validate")),
    ("distributed.shuffle._core", "barrier_key", ("shuffle_id",)),
    ("distributed.shuffle._core", "ShuffleRun._send", ("self", "address", "shards")),
    ("distributed.shuffle._scheduler_plugin", "ShuffleSchedulerPlugin._calculate_worker_for",
     ("self", "spec")),
    ("distributed.stealing", "WorkStealing.__init__", ("self", "scheduler")),
    ("distributed.stealing", "WorkStealing._get_thief",
     ("self", "scheduler", "ts", "potential_thieves", "occupancies")),
    ("distributed.stealing", "WorkStealing.log", ("self", "msg")),
    ("distributed.stealing", "WorkStealing.stop", ("self",)),
    ("distributed.stealing", "WorkStealing.start", ("self", "scheduler")),
)  # fmt: skip
"""Module, name, and the parameters that fed relies on (empty: only the name)."""

USED_WITH_FRAMES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("dask.dataframe.dask_expr._collection", "FrameBase.__init__", ("self", "expr")),
    ("dask.dataframe.dask_expr._expr", "Blockwise", ()),
    ("dask.dataframe.dask_expr._expr", "Blockwise._funcname", ()),
    ("dask.dataframe.dask_expr._expr", "Blockwise._meta", ()),
    ("dask.dataframe.dask_expr._expr", "Blockwise._task", ("self", "name", "index")),
    ("dask.dataframe.dask_expr._expr", "PartitionsFiltered._partitions", ()),
    ("dask.dataframe.dask_expr._expr", "PartitionsFiltered._filtered_task",
     ("self", "name", "index")),
    ("dask.dataframe.dask_expr._util", "_BackendData._data", ()),
    ("dask.dataframe.dask_expr.io.io", "FromGraph", ()),
    ("dask.dataframe.dask_expr.io.io", "FusedIO._fusion_buckets", ()),
    ("dask.dataframe.dask_expr.io.io", "IO", ()),
    ("dask.dataframe.dask_expr.io.parquet", "ReadParquetFSSpec._tune_up", ("self", "parent")),
    ("dask.dataframe.dask_expr.io.parquet", "ReadParquetFSSpec._plan", ()),
    ("dask.dataframe.dask_expr.io.parquet", "ReadParquetFSSpec._get_lengths", ("self",)),
    ("dask.dataframe.dask_expr.io.parquet", "ReadParquetPyarrowFS._dataset_info", ()),
    ("dask.tokenize", "_tokenize_deterministic", ("args",)),
    (
        "dask.dataframe.io.parquet.core",
        "ParquetFunctionWrapper.__init__",
        ("self", "fs", "meta", "columns"),
    ),
)  # fmt: skip
"""The same for dask.dataframe, which not every installation has."""


def _member(owner: Any, name: str) -> Any:
    """Return what an object has under a name; None for what instances of a class are given."""
    try:
        return getattr(owner, name)
    except AttributeError:
        named = getattr(getattr(owner, "__init__", None), "__code__", None)
        if name in getattr(owner, "__annotations__", ()) or (named and name in named.co_names):
            return None
        raise


def missing(used: tuple[tuple[str, str, tuple[str, ...]], ...] = USED) -> list[str]:
    """Return the names of Dask that fed uses and that this installation lacks.

    Returns
    -------
    list of str
        ``module:name``, with the parameters that are gone; empty when all is well.
    """
    gaps = []
    for module, name, parameters in used:
        target: Any = None
        try:
            target = import_module(module)
            for part in name.split("."):
                target = _member(target, part)
        except (ImportError, AttributeError):
            gaps.append(f"{module}:{name}")
            continue
        present = inspect.signature(target).parameters if parameters else ()
        lost = [parameter for parameter in parameters if parameter not in present]
        if lost:
            gaps.append(f"{module}:{name}({', '.join(lost)})")
    return gaps
