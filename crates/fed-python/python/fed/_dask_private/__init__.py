"""Every private name of Dask that fed touches, in one place.

Nothing else in the package may use a private name of Dask. `missing` says which of them
an installed version lacks; a test fails on each, and the scheduler refuses to start.
"""

from __future__ import annotations

from fed._dask_private.construction import hook_layers, hook_tokens
from fed._dask_private.frames import (
    ParquetRead,
    frames_held,
    graph_expression,
    hook_frames,
    is_frame,
    is_graph_expression,
    parquet_read,
)
from fed._dask_private.moving import hook_costs, hook_holders, hook_memory_manager, hook_request
from fed._dask_private.queueing import PoolQueues, hook_saturation
from fed._dask_private.scheduler import (
    Arrival,
    fail_tasks,
    flatten_keys,
    hook_placement,
    hook_shuffles,
    hook_submissions,
    materialise,
    order,
    pickled,
    scheduler_identity,
)
from fed._dask_private.tasks import (
    Alias,
    DataNode,
    GraphNode,
    NestedContainer,
    Task,
    TaskRef,
    clone_key,
    convert_legacy_graph,
    current_worker,
    is_barrier,
    is_coroutine_function,
    is_future,
    is_rechunk,
    name_of_key,
    pickle_function,
    rebuild_container,
    rebuild_task,
    rename_blockwise,
    rename_key,
    rename_node,
    subgraph_of,
)
from fed._dask_private.used import USED, USED_WITH_FRAMES, missing
from fed._dask_private.worker import hook_incoming, hook_nannies, hook_outgoing

__all__ = [
    "USED",
    "USED_WITH_FRAMES",
    "Alias",
    "Arrival",
    "DataNode",
    "GraphNode",
    "NestedContainer",
    "ParquetRead",
    "PoolQueues",
    "Task",
    "TaskRef",
    "clone_key",
    "convert_legacy_graph",
    "current_worker",
    "fail_tasks",
    "flatten_keys",
    "frames_held",
    "graph_expression",
    "hook_costs",
    "hook_frames",
    "hook_holders",
    "hook_incoming",
    "hook_layers",
    "hook_memory_manager",
    "hook_nannies",
    "hook_outgoing",
    "hook_placement",
    "hook_request",
    "hook_saturation",
    "hook_shuffles",
    "hook_submissions",
    "hook_tokens",
    "is_barrier",
    "is_coroutine_function",
    "is_frame",
    "is_future",
    "is_graph_expression",
    "is_rechunk",
    "materialise",
    "missing",
    "name_of_key",
    "order",
    "parquet_read",
    "pickle_function",
    "pickled",
    "rebuild_container",
    "rebuild_task",
    "rename_blockwise",
    "rename_key",
    "rename_node",
    "scheduler_identity",
    "subgraph_of",
]
