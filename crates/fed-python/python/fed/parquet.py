"""Pins reads of parquet files, and tells the bytes of their partitions from the footers alone."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fed import _dask_private as dask_private
from fed.pins import Pinned, pin_node

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger("fed")

MOST_FILES = 32
"""Partitions whose footers are read; the others are taken for their mean."""

OFFSET = 8
"""Bytes that each row of a column of unlike lengths, such as text, needs besides its own."""

_FIXED = frozenset("biufcmM")
"""Kinds of numpy's types that are as long in each row."""


Columns = dict[str, int]
"""Bytes in memory by column, the index as one of them."""


@dataclass(frozen=True, eq=False)
class ReadPin:
    """Pins a read of parquet files, and knows how large its partitions are.

    Parameters
    ----------
    pool
        The pool.
    known
        Bytes of columns by number of a partition.
    mean
        Bytes of columns of all others.
    index
        Columns that are read whatever is asked for.
    """

    pool: str
    known: Mapping[int, Columns]
    mean: Columns
    index: frozenset[str]

    def mark(self, node: Any, parts: Sequence[int], columns: Sequence[str]) -> Any:
        """Return a task that reads columns of partitions, pinned."""
        pinned = pin_node(node, self.pool)
        func = getattr(pinned, "func", None)
        if isinstance(func, Pinned) and self.mean:
            names = {*map(str, columns), *self.index}
            sizes = [self.known.get(part, self.mean) for part in parts]
            func.nbytes = sum(size.get(name, 0) for size in sizes for name in names)
        return pinned

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "fed.ReadPin", self.pool


def pin_read(read: Any, pool: str) -> ReadPin:
    """Return the pin of an expression that reads parquet files."""
    known = column_bytes(dask_private.tasks_of_read(read))
    columns = {str(name) for name in read.columns}
    index = frozenset(name for sizes in known.values() for name in sizes if name not in columns)
    return ReadPin(pool, known, _mean(known), index)


def partition_bytes(nodes: Mapping[Any, Any]) -> dict[Any, int]:
    """Return the bytes in memory of partitions that are read from parquet files, by key.

    Parameters
    ----------
    nodes
        The tasks of a table. Those that read nothing, or read something else, are left out; so
        are all if a footer cannot be read: the read itself will tell why.
    """
    known = column_bytes(nodes)
    mean = sum(_mean(known).values())
    reads = [key for key, node in nodes.items() if dask_private.parquet_read(node)] if known else []
    return {key: sum(known[key].values()) if key in known else mean for key in reads}


def column_bytes(nodes: Mapping[Any, Any]) -> dict[Any, Columns]:
    """Return the bytes of the columns of some of the partitions, by key; see `partition_bytes`."""
    reads = {key: read for key, node in nodes.items() if (read := dask_private.parquet_read(node))}
    if not reads:
        return {}
    step = -(-len(reads) // MOST_FILES)
    try:
        return {key: _columns(reads[key]) for key in list(reads)[::step]}
    except Exception as error:  # noqa: BLE001 - any file system raises what it likes
        logger.debug("no sizes from parquet footers: %s", error)
        return {}


def _mean(known: Mapping[Any, Columns]) -> Columns:
    total: Counter[str] = Counter()
    for sizes in known.values():
        total.update(sizes)
    return {name: size // len(known) for name, size in total.items()}


def _columns(read: dask_private.ParquetRead) -> Columns:
    from pyarrow.parquet import ParquetFile

    widths = {str(name): dtype.itemsize for name, dtype in read.types.items()
              if dtype.kind in _FIXED}  # fmt: skip
    total: Counter[str] = Counter()
    for path, groups in read.pieces:
        with read.files.open(path, "rb") as file:
            footer = ParquetFile(file).metadata
        for number in range(footer.num_row_groups) if groups is None else groups:
            group = footer.row_group(number)
            total.update({name: group.num_rows * width for name, width in widths.items()})
            for column in map(group.column, range(group.num_columns)):
                name = column.path_in_schema.partition(".")[0]
                if name in read.types and name not in widths:
                    total[name] += column.total_uncompressed_size + OFFSET * group.num_rows
    return dict(total)
