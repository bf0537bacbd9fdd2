"""Estimates how many bytes a task's output has, before it has run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.utils import key_split

from fed import _dask_private as dask_private
from fed.pins import Pinned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SMALL = 1 << 10
"""Bytes of an object that is no array or table, such as the handle of a file."""

SPREAD = 8
"""Ratio of the largest to the smallest output of a name beyond which the name tells nothing."""

_GENERIC = frozenset(
    {
        *("concatenate", "finalize", "getitem", "overlap", "rechunk-merge", "rechunk-split"),
        *("reshape", "shuffle-split", "stack", "transpose", "where"),
    }
)
"""Names of tasks whose outputs are as large as what they are given."""

UNKNOWN_ROOT = 1 << 20
"""Bytes of what a task without inputs reads, when nothing tells."""


@dataclass(frozen=True)
class Blocks:
    """The chunks of an array."""

    chunks: tuple[tuple[float, ...], ...]
    """Lengths along each axis; NaN where unknown."""
    itemsize: int

    def shape(self, index: tuple[Any, ...]) -> list[int] | None:
        """Return the shape of the block at an index, or None if that is unknown."""
        if len(index) != len(self.chunks):
            return None
        shape = []
        for position, lengths in zip(index, self.chunks, strict=True):
            if not isinstance(position, int) or not 0 <= position < len(lengths):
                return None
            if math.isnan(lengths[position]):
                return None
            shape.append(int(lengths[position]))
        return shape

    def nbytes(self, index: tuple[Any, ...]) -> int | None:
        """Return the bytes of the block at an index, or None if that is unknown."""
        shape = self.shape(index)
        return None if shape is None else math.prod(shape) * self.itemsize


_ARRAYS = {
    **dict.fromkeys(("mean_chunk", "mean_combine"), 2),  # counts and sums
    **dict.fromkeys(("moment_chunk", "moment_combine"), 3),  # and sums of squares
    **dict.fromkeys(("arg_chunk", "_arg_combine"), 2),  # values and positions
}
"""Arrays in what the steps of a reduction hand on, where Dask notes one; by the layer's prefix."""


def blocks_of_layers(layers: Mapping[str, Any]) -> dict[str, Blocks]:
    """Return the blocks of the arrays that the layers of a high-level graph make, by name.

    Parameters
    ----------
    layers
        Layers by name. Dask notes on each that makes an array its chunks and its type.
    """
    found = {}
    for name, layer in layers.items():
        notes = layer.collection_annotations or {}
        chunks, dtype = notes.get("chunks"), notes.get("dtype")
        if chunks is None or dtype is None or not hasattr(dtype, "itemsize"):
            continue
        # An array of objects has pointers of 8 bytes; what they point to is unknown.
        if dtype.hasobject:
            continue
        arrays = _ARRAYS.get(name.partition("-")[0], 1)
        found[name] = Blocks(_reduced(layer, chunks), dtype.itemsize * arrays)
    return found


def _reduced(layer: Any, chunks: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
    """Correct the chunks of a reduction's first step, which Dask notes before it is reduced."""
    keywords = getattr(getattr(layer, "task", None), "kwargs", {})
    axis = keywords.get("axis")
    if keywords.get("keepdims") is not True or axis is None:
        return chunks
    axes = {number % len(chunks) for number in (axis if isinstance(axis, tuple) else (axis,))}
    return tuple(
        (1,) * len(lengths) if number in axes else lengths for number, lengths in enumerate(chunks)
    )


@dataclass
class _Group:
    """Finished tasks of one collection."""

    count: int = 0
    total: int = 0
    """Bytes of their outputs."""
    guessed: int = 0
    """Bytes that their chunks made believe, of those that have one."""
    total_of_guessed: int = 0
    """Bytes that these had."""


class Learned:
    """Mean bytes of the outputs of finished tasks, by the name in their keys and by prefix."""

    LIMIT = 100_000
    """Names after which those heard of first are dropped."""

    def __init__(self) -> None:
        self._groups: dict[Any, _Group] = {}
        self._prefixes: dict[str, tuple[int, int, int, int]] = {}

    def add(self, key: Any, prefix: str, nbytes: int, guess: int | None = None) -> None:
        """Take note of one finished task.

        Parameters
        ----------
        key, prefix
            Its key, and the name in it.
        nbytes
            Of its output.
        guess
            What its chunk alone made believe, if it has one.
        """
        if type(key) is tuple:
            group = self._groups.get(key[0])
            if group is None:
                group = self._groups[key[0]] = _Group()
                if len(self._groups) > self.LIMIT:
                    del self._groups[next(iter(self._groups))]
            group.count += 1
            group.total += nbytes
            if guess:
                group.guessed += guess
                group.total_of_guessed += nbytes
        count, total, least, most = self._prefixes.get(prefix, (0, 0, nbytes, nbytes))
        entry = count + 1, total + nbytes, min(least, nbytes), max(most, nbytes)
        self._prefixes[prefix] = entry

    def of_group(self, key: Any, guess: int | None = None) -> int | None:
        """Return what a task of a collection gives, by those of it that have finished.

        Parameters
        ----------
        key
            Its key.
        guess
            What its chunk alone makes believe. It is corrected by the factor by which the others
            were wrong; without it, all are taken to be equal.
        """
        group = self._groups.get(key[0]) if type(key) is tuple and key else None
        if group is None:
            return None
        if guess is not None and group.guessed:
            return guess * group.total_of_guessed // group.guessed
        return group.total // group.count

    def of_prefix(self, key: Any) -> int | None:
        """Return the mean of all tasks of the same name, if that tells of their size."""
        prefix = key_split(key)
        entry = self._prefixes.get(prefix)
        if entry is None or prefix in _GENERIC:
            return None
        count, total, least, most = entry
        return total // count if most <= SPREAD * max(least, 1) else None


class Estimator:
    """Estimates the bytes of tasks' outputs.

    Parameters
    ----------
    blocks
        The arrays of the graph by name, see `blocks_of_layers`.
    learned
        What finished tasks have given.
    """

    def __init__(self, blocks: Mapping[str, Blocks], learned: Learned) -> None:
        self.blocks = blocks
        self.learned = learned

    def nbytes(self, key: Any, node: Any, inputs: Iterable[int]) -> int:
        """Estimate the bytes of one task's output.

        Parameters
        ----------
        key
            Its key.
        node
            Its node of the graph, or None.
        inputs
            The bytes of its inputs.
        """
        guess = self.guess(key, node)
        known = self.learned.of_group(key, guess)
        if known is None:
            known = guess
        if known is None:
            known = self.learned.of_prefix(key)
        if known is not None:
            return known
        sizes = list(inputs)
        if not sizes:
            return UNKNOWN_ROOT
        return sum(sizes) if _joins(node) else max(sizes)

    def guess(self, key: Any, node: Any) -> int | None:
        """Return what a task's chunk, its data or its pin tell of its output, if they do."""
        if isinstance(key, tuple) and key and (blocks := self.blocks.get(key[0])):
            size = blocks.nbytes(key[1:])
            if size is not None:
                return size
        if isinstance(node, dask_private.DataNode):
            return bytes_of_data(node.value)
        if isinstance(node, dask_private.Task):
            return self._known_of_task(node)
        return None

    def _known_of_task(self, node: Any) -> int | None:
        func = node.func
        if isinstance(func, Pinned):
            if func.nbytes is not None:
                return func.nbytes
            func = func.__wrapped__
        return self._bytes_of_slice(*node.args) if _is_getitem(func, node) else None

    def _bytes_of_slice(self, source: Any, index: Any) -> int | None:
        """Return the bytes of a piece that is cut from a block, such as a rechunk or a halo is."""
        key = source.target if isinstance(source, dask_private.Alias) else source
        key = getattr(key, "key", key)
        blocks = self.blocks.get(key[0]) if isinstance(key, tuple) and key else None
        shape = None if blocks is None else blocks.shape(key[1:])
        if blocks is None or shape is None or not isinstance(index, tuple):
            return None
        if len(index) != len(shape) or not all(isinstance(part, slice) for part in index):
            return None
        lengths = (
            len(range(*part.indices(length))) for part, length in zip(index, shape, strict=True)
        )
        return math.prod(lengths) * blocks.itemsize


def takes_item(node: Any) -> bool:
    """Tell whether a task takes one item out of a tuple."""
    func = getattr(node, "func", None)
    return _is_getitem(func, node) and isinstance(node.args[1], int)


def _is_getitem(func: Any, node: Any) -> bool:
    return getattr(func, "__name__", "") == "getitem" and len(node.args) == 2  # noqa: PLR2004


def bytes_of_data(value: Any) -> int:
    """Return the bytes of an object that is a part of the graph.

    A lazy array claims the size of what it would read, so only the kinds that hold their data
    are asked.
    """
    if type(value).__module__.partition(".")[0] not in {"numpy", "pandas"}:
        return SMALL
    if hasattr(value, "memory_usage"):
        usage = value.memory_usage()
        return int(usage.sum() if hasattr(usage, "sum") else usage)
    return int(getattr(value, "nbytes", SMALL))


_JOINING = frozenset({"concatenate3", "concatenate_axes", "concat", "finalize", "_concat"})


def _joins(node: Any) -> bool:
    """Tell whether a task puts all of its inputs into its output."""
    if isinstance(node, dask_private.NestedContainer):
        return True
    func = getattr(node, "func", None)
    if isinstance(func, Pinned):
        func = func.__wrapped__
    return getattr(func, "__name__", "") in _JOINING
