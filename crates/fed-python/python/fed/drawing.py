"""Draws the layers of a computation, coloured by pool, as SVG."""

from __future__ import annotations

import html
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes, key_split

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#997700", "#44aa99",
)  # fmt: skip
"""Colours of pools, told apart by people who do not tell red from green (Paul Tol, "bright")."""

NO_POOL = "#bbbbbb"
WIDTH, HEIGHT, GAP_X, GAP_Y = 190, 44, 30, 46
"""Pixels of a box, and between boxes."""


@dataclass(frozen=True)
class Drawing:
    """An SVG picture."""

    svg: str

    def __str__(self) -> str:
        return self.svg

    def _repr_svg_(self) -> str:
        return self.svg


def draw(layers: Sequence[dict[str, Any]], pools: Sequence[str]) -> Drawing:
    """Draw layers from top to bottom, inputs above what is made of them.

    Parameters
    ----------
    layers
        See `fed.explaining.Explainer.explain`; inputs before what needs them.
    pools
        All pools, in the order in which they get their colours.
    """
    colours = {pool: COLOURS[number % len(COLOURS)] for number, pool in enumerate(pools)}
    places = _places(layers)
    columns = 1 + max((column for column, _ in places.values()), default=0)
    rows = 1 + max((row for _, row in places.values()), default=0)
    width = columns * (WIDTH + GAP_X) + GAP_X
    height = rows * (HEIGHT + GAP_Y) + GAP_Y + 20
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
        )
    ]
    parts += [_arrow(layer, name, places) for layer in layers for name in layer["inputs"]
              if name in places]  # fmt: skip
    parts += [_box(layer, *_corner(*places[layer["name"]]), colours) for layer in layers]
    parts += [
        f'<rect x="{GAP_X + 110 * number}" y="{height - 22}" width="12" height="12"'
        f' fill="{colour}"/><text x="{GAP_X + 110 * number + 17}" y="{height - 12}">'
        f"{html.escape(pool)}</text>"
        for number, (pool, colour) in enumerate(colours.items())
    ]
    return Drawing("".join([*parts, "</svg>"]))


def _places(layers: Sequence[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    rows: dict[str, int] = {}
    taken: defaultdict[int, int] = defaultdict(int)
    places = {}
    for layer in layers:
        above = [rows[name] for name in layer["inputs"] if name in rows]
        row = rows[layer["name"]] = max(above, default=-1) + 1
        places[layer["name"]] = taken[row], row
        taken[row] += 1
    return places


def _corner(column: int, row: int) -> tuple[int, int]:
    return GAP_X + column * (WIDTH + GAP_X), GAP_Y // 2 + row * (HEIGHT + GAP_Y)


def _arrow(layer: dict[str, Any], name: str, places: dict[str, tuple[int, int]]) -> str:
    x1, y1 = _corner(*places[name])
    x2, y2 = _corner(*places[layer["name"]])
    crosses = bool(layer["received"])
    style = 'stroke="#bb0000" stroke-dasharray="5 3"' if crosses else 'stroke="#888888"'
    return (
        f'<line x1="{x1 + WIDTH // 2}" y1="{y1 + HEIGHT}" x2="{x2 + WIDTH // 2}" y2="{y2}"'
        f' stroke-width="1.5" {style}/>'
    )


def _box(layer: dict[str, Any], x: int, y: int, colours: dict[str, str]) -> str:
    parts = []
    left = float(x)
    for pool, count in layer["pools"].items():
        share = WIDTH * count / layer["tasks"]
        parts.append(
            f'<rect x="{left:.1f}" y="{y}" width="{share:.1f}" height="{HEIGHT}"'
            f' fill="{colours.get(pool, NO_POOL)}" fill-opacity="0.45"/>'
        )
        left += share
    label = html.escape(key_split(layer["name"])[:28])
    received = sum(nbytes for _, _, nbytes in layer["received"])
    crossing = f", in {format_bytes(received)}" if received else ""
    return (
        f"<g>{''.join(parts)}"
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#333333"/>'
        f'<text x="{x + 6}" y="{y + 17}" font-weight="bold">{label}</text>'
        f'<text x="{x + 6}" y="{y + 34}">{layer["tasks"]} tasks,'
        f" {format_bytes(layer['bytes_out'])}{crossing}</text></g>"
    )
