"""Tells the bytes of a table's partitions from the footers of its parquet files alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fed import _dask_private as dask_private

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger("fed")

MOST_FILES = 32
"""Partitions whose footers are read; the others are taken for their mean."""

OFFSET = 8
"""Bytes that each row of a column of unlike lengths, such as text, needs besides its own."""

_FIXED = frozenset("biufcmM")
"""Kinds of numpy's types that are as long in each row."""


def partition_bytes(nodes: Mapping[Any, Any]) -> dict[Any, int]:
    """Return the bytes in memory of partitions that are read from parquet files, by key.

    Parameters
    ----------
    nodes
        The tasks of a table. Those that read nothing, or read something else, are left out; so
        are all if a footer cannot be read: the read itself will tell why.
    """
    reads = {key: read for key, node in nodes.items() if (read := dask_private.parquet_read(node))}
    if not reads:
        return {}
    step = -(-len(reads) // MOST_FILES)
    try:
        known = {key: _bytes(reads[key]) for key in list(reads)[::step]}
    except Exception as error:  # noqa: BLE001 - any file system raises what it likes
        logger.debug("no sizes from parquet footers: %s", error)
        return {}
    mean = sum(known.values()) // len(known)
    return {key: known.get(key, mean) for key in reads}


def _bytes(read: dask_private.ParquetRead) -> int:
    from pyarrow.parquet import ParquetFile

    widths = {str(name): dtype.itemsize for name, dtype in read.types.items()
              if dtype.kind in _FIXED}  # fmt: skip
    total = 0
    for path, groups in read.pieces:
        with read.files.open(path, "rb") as file:
            footer = ParquetFile(file).metadata
        for number in range(footer.num_row_groups) if groups is None else groups:
            group = footer.row_group(number)
            total += sum(group.num_rows * width for width in widths.values())
            for column in map(group.column, range(group.num_columns)):
                name = column.path_in_schema.partition(".")[0]
                if name in read.types and name not in widths:
                    total += column.total_uncompressed_size + OFFSET * group.num_rows
    return total
