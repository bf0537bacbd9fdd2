"""Reads of parquet files that stay symbolic while they are pinned.

A pinned read is an expression of a class of its own, derived from Dask's, so that all that Dask
does to reads happens to it too: it takes in projections and filters, and where fsspec reads them
several files become one partition if few of their columns are needed. When expressions are lowered
to tasks it turns into a `PinnedTasks`, which Dask fuses with nothing, so that no task gets reads of
several pools.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

from dask.dataframe.dask_expr._expr import Blockwise, PartitionsFiltered
from dask.dataframe.dask_expr.io.io import IO, FusedIO
from dask.dataframe.dask_expr.io.parquet import ReadParquetFSSpec, ReadParquetPyarrowFS
from dask.tokenize import _tokenize_deterministic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PIN = "fed_pin"
"""The operand that holds the pin."""


class Pin(Protocol):
    """What is known of a pinned read."""

    def mark(self, node: Any, parts: Sequence[int], columns: Sequence[str]) -> Any:
        """Return a task that reads columns of partitions, pinned."""


class PinnedTasks(PartitionsFiltered, IO):
    """The tasks of an expression that reads, pinned."""

    _parameters = ("_expr", PIN, "_partitions")
    _defaults = {"_partitions": None}  # noqa: RUF012 - as in every expression

    @cached_property
    def _name(self) -> str:
        return f"{self.operand('_expr')._funcname}-{self.deterministic_token}"

    @cached_property
    def _meta(self) -> Any:
        return self.operand("_expr")._meta

    def _divisions(self) -> tuple[Any, ...]:
        return tuple(self.operand("_expr").divisions)

    def dependencies(self) -> list[Any]:
        """Return none: what is read is made here."""
        return []

    def _filtered_task(self, name: Any, index: int) -> Any:
        inner = self.operand("_expr")
        return _marked(self.operand(PIN), inner, inner._task(name, index), index)


def _marked(pin: Pin, expr: Any, node: Any, index: int) -> Any:
    """Pin the task of one partition of a read, or of several that became one."""
    if isinstance(expr, FusedIO):
        read = expr.operand("_expr")
        return pin.mark(node, expr._fusion_buckets[index], read.columns)
    return pin.mark(node, [expr._partitions[index]], expr.columns)


class PinnedRead:
    """What pinned reads of any kind have in common; mixed into the classes of `_pinned_kind`."""

    _plain_kind: type[Any]

    @property
    def plain(self: Any) -> Any:
        """The same read without its pin."""
        pairs = zip(self._parameters, self.operands, strict=True)
        return self._plain_kind(*(value for name, value in pairs if name != PIN))

    def __dask_tokenize__(self: Any) -> str:
        if not self._determ_token:
            token = self.plain.deterministic_token
            self._determ_token = _tokenize_deterministic(token, self.operand(PIN))
        return str(self._determ_token)

    def __reduce__(self: Any) -> tuple[Any, ...]:
        return _rebuild, (self._plain_kind, self.operands, self.deterministic_token)

    def _task(self: Any, name: Any, index: int) -> Any:
        return _marked(self.operand(PIN), self, self.plain._task(name, index), index)

    def _lower(self: Any) -> Any:
        return PinnedTasks(self.plain, self.operand(PIN))

    def _tune_up(self: Any, parent: Any) -> Any:
        if self._plain_kind is ReadParquetPyarrowFS:
            return None  # Dask's own looks at files to find out whether it is worth it
        tuned = super()._tune_up(parent)  # type: ignore[misc]
        if tuned is None:
            return None
        fused = PinnedTasks(FusedIO(self.plain), self.operand(PIN))
        return tuned.substitute(FusedIO(self), fused)

    def _get_lengths(self: Any) -> Any:
        """Return the rows of partitions if they are known; the files are not looked at."""
        if self._plain_kind is ReadParquetFSSpec and self._plan["statistics"]:
            return super()._get_lengths()  # type: ignore[misc]
        return None


@cache
def _pinned_kind(kind: Any) -> Any:
    # The last operand of Dask's stays the last: it is left out of tokens.
    parameters = [*kind._parameters[:-1], PIN, kind._parameters[-1]]
    members = {"_parameters": parameters, "_plain_kind": kind}
    return type(f"Pinned{kind.__name__}", (PinnedRead, kind), members)


def _rebuild(kind: Any, operands: list[Any], token: str) -> Any:
    return _pinned_kind(kind)(*operands, _determ_token=token)


def pin_reads(expr: Any, pin: Callable[[Any], Pin]) -> Any | None:
    """Return an expression whose reads are pinned, and that is as symbolic as before.

    Parameters
    ----------
    expr
        An expression of dask.dataframe.
    pin
        Makes the pin of a read.

    Returns
    -------
    Any
        None unless all that it does is to read parquet files, and to select, compare and combine,
        partition by partition, by what Dask itself knows to do.
    """
    pinned = expr
    for part in expr.walk():
        if part.dependencies():
            if not isinstance(part, Blockwise) or any(map(callable, part.operands)):
                return None
        elif not isinstance(part, PinnedRead | PinnedTasks):
            if type(part) not in (ReadParquetFSSpec, ReadParquetPyarrowFS):
                return None
            if part.operand("calculate_divisions"):
                return None  # from statistics, which are read again for other columns
            pinned = pinned.substitute(part, _pinned_read(part, pin(part)))
    return pinned


def _pinned_read(read: Any, pin: Pin) -> Any:
    """Return a read with its pin, and with all that is known of the files.

    They are looked at now, so that nobody who cannot see them has to. Arrow's data set is left
    out, which looks at them even when it is pickled; the partitions are planned already.
    """
    known = {name: value for name, value in read._dataset_info.items() if name != "ds"}
    operands = dict(zip(read._parameters, read.operands, strict=True))
    operands |= {"_dataset_info_cache": known, PIN: pin}
    if isinstance(read, ReadParquetPyarrowFS):
        operands["filesystem"] = read.fs  # of its name it is made again, which may ask the store
    kind: Any = type(read)
    kind = _pinned_kind(kind)
    return kind(*(operands[name] for name in kind._parameters))
