"""`fed.explain`: where a lazy object's tasks would run, why, and what would cross."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask.base import collections_to_expr, is_dask_collection
from dask.utils import format_bytes, key_split

from fed import _dask_private as dask_private
from fed.advice import advise
from fed.client import current_client
from fed.drawing import draw
from fed.errors import NotLazyError
from fed.files import misaligned

if TYPE_CHECKING:
    import os

    from distributed import Client


@dataclass(frozen=True)
class Explanation:
    """What the placement of a computation is expected to be.

    Printed, it is a table; in a notebook, the same as HTML; `visualize` draws it.
    """

    pools: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    """See `fed.explaining.Explainer.explain`."""
    crossing: list[list[Any]]
    """Source, destination and bytes, per pair of pools."""
    advice: list[str] = field(default_factory=list)

    @property
    def bytes_crossing(self) -> int:
        """Bytes that are expected to cross between pools, in all."""
        return sum(nbytes for _, _, nbytes in self.crossing)

    def __str__(self) -> str:
        if not self.layers:
            return "Nothing in it is pinned to a pool: it runs as on any Dask cluster."
        rows = [_HEAD, *(_cells(layer) for layer in self.layers)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines += ["", self._total(), *(f"Advice: {text}" for text in self.advice)]
        return "\n".join(lines)

    __repr__ = __str__

    def _total(self) -> str:
        if not self.crossing:
            return "Nothing crosses between pools."
        pairs = ", ".join(f"{a} → {b} {format_bytes(n)}" for a, b, n in self.crossing)
        return f"Expected to cross: {format_bytes(self.bytes_crossing)} ({pairs})"

    def _repr_html_(self) -> str:
        if not self.layers:
            return f"<p>{html.escape(str(self))}</p>"
        head = "".join(f"<th style='text-align:left'>{cell}</th>" for cell in _HEAD)
        body = "".join(
            "<tr>"
            + "".join(
                f"<td style='text-align:left'>{html.escape(cell)}</td>" for cell in _cells(layer)
            )
            + "</tr>"
            for layer in self.layers
        )
        advice = "".join(f"<li>{html.escape(text)}</li>" for text in self.advice)
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            f"<p><b>{html.escape(self._total())}</b></p>" + (f"<ul>{advice}</ul>" if advice else "")
        )

    def visualize(self, filename: str | os.PathLike[str] | None = None) -> Any:
        """Draw the layers, coloured by pool, as SVG.

        Parameters
        ----------
        filename
            Where to write it, such as ``plan.svg``; by default nowhere.

        Returns
        -------
        Drawing
            A notebook shows it; ``str`` gives the SVG.
        """
        drawing = draw(self.layers, [pool["name"] for pool in self.pools])
        if filename is not None:
            Path(filename).write_text(str(drawing), encoding="utf-8")
        return drawing


_HEAD = ("layer", "tasks", "pool", "why", "out", "in from other pools")


def _cells(layer: dict[str, Any]) -> tuple[str, ...]:
    pools = layer["pools"]
    where = ", ".join(name if len(pools) == 1 else f"{name} {n}" for name, n in pools.items())
    received = ", ".join(f"{a} → {b} {format_bytes(n)}" for a, b, n in layer["received"])
    return (
        key_split(layer["name"]),
        str(layer["tasks"]),
        where,
        next(iter(layer["reasons"])),
        format_bytes(layer["bytes_out"]),
        received,
    )


def explain(*collections: Any, client: Client | None = None) -> Any:
    """Tell, before running it, where a computation's tasks would run and what would cross.

    Parameters
    ----------
    *collections
        Dask collections or xarray objects, as for `dask.compute`.
    client
        The client; by default the current one.

    Returns
    -------
    Explanation
        An awaitable of it, for an asynchronous client.

    Raises
    ------
    NotLazyError
        If something given is no Dask collection.

    Examples
    --------
    >>> fed.explain(predictions.mean("realization") - observations)  # doctest: +SKIP
    """
    for obj in collections:
        if not is_dask_collection(obj):
            raise NotLazyError(
                f"fed.explain was given a {type(obj).__module__}.{type(obj).__name__}, which has"
                " no tasks. Give it what you would call .compute() on: Dask collections, or xarray"
                " objects made of them.",
                kind=type(obj).__name__,
            )
    client = client or current_client()
    expr = collections_to_expr(collections)
    return client.sync(_explain, client, dask_private.pickled(expr), misaligned(collections))


async def _explain(client: Client, expression: bytes, files: list[str]) -> Explanation:
    report = await client.scheduler.fed_explain(expression=expression)
    return Explanation(report["pools"], report["layers"], report["crossing"], advise(report, files))
