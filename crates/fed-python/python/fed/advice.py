"""Advice on a computation, with the numbers that it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes, key_split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SMALL_CHUNK = 1_000_000
"""Bytes below which a chunk is work for the scheduler rather than for a worker."""

LARGE_CHUNK = 1_000_000_000
"""Bytes above which few chunks fit beside one another."""

CHUNKS_PER_THREAD = 4
"""Chunks that a thread needs room for: an input, the result, and what the function copies."""

MANY = 16
"""Tasks of a layer below which the size of its chunks hardly matters."""

RAW_SHARE = 0.5
"""Part of a pinned layer's bytes beyond which raw data is said to be shipped."""


def advise(report: Mapping[str, Any], files: Iterable[str] = ()) -> list[str]:
    """Return advice on a computation.

    Parameters
    ----------
    report
        What `fed.explaining.Explainer.explain` returns.
    files
        Advice on how chunks lie in files, which only the client can give.
    """
    return [
        *_on_sizes(report),
        *_on_memory(report),
        *files,
        *_on_rechunks(report),
        *_on_raw_data(report),
    ]


def _sources(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the layers that read: those that are pinned and hold chunks."""
    return [
        layer
        for layer in report["layers"]
        if layer["largest"] >= 1 << 14 and any("pinned" in reason for reason in layer["reasons"])
    ]


def _on_sizes(report: Mapping[str, Any]) -> Iterable[str]:
    for layer in _sources(report):
        mean = layer["bytes_out"] // layer["tasks"]
        name = key_split(layer["name"])
        if mean < SMALL_CHUNK and layer["tasks"] >= MANY:
            times = -(-10 * SMALL_CHUNK // max(mean, 1))
            yield (
                f"{name}: {layer['tasks']} chunks of {format_bytes(mean)} on average, below 1 MB:"
                " the scheduler takes about as long as the work. Open it with chunks about"
                f" {times} times larger."
            )
        if layer["largest"] > LARGE_CHUNK:
            yield (
                f"{name}: chunks of up to {format_bytes(layer['largest'])}, above 1 GB: few fit"
                " into a worker's memory. Open it with smaller chunks, 100 MB to 1 GB each."
            )


def _on_memory(report: Mapping[str, Any]) -> Iterable[str]:
    pools = {pool["name"]: pool for pool in report["pools"]}
    for layer in _sources(report):
        for name in layer["pools"]:
            pool = pools.get(name)
            if pool is None or not pool["threads"] or not pool["memory"]:
                continue
            share = pool["memory"] // pool["threads"]
            if layer["largest"] * CHUNKS_PER_THREAD > share:
                yield (
                    f"{key_split(layer['name'])}: chunks of {format_bytes(layer['largest'])} in"
                    f" pool {name}, where a thread has {format_bytes(share)} of memory: fewer"
                    f" than {CHUNKS_PER_THREAD} fit. Take smaller chunks, or fewer threads per"
                    " worker."
                )


def _on_rechunks(report: Mapping[str, Any]) -> Iterable[str]:
    for layer in report["layers"]:
        crossing = sum(nbytes for _, _, nbytes in layer["received"])
        if crossing and "rechunk" in layer["name"]:
            yield (
                f"{key_split(layer['name'])} moves {format_bytes(crossing)} between pools. Rechunk"
                " or reduce each pool's part by itself, before they are combined."
            )


def _on_raw_data(report: Mapping[str, Any]) -> Iterable[str]:
    layers = {layer["name"]: layer for layer in report["layers"]}
    sources = {layer["name"] for layer in _sources(report)}
    for layer in report["layers"]:
        for name in sources.intersection(layer["inputs"]):
            source = layers[name]
            homes = set(source["pools"])
            taken = sum(nbytes for home, _, nbytes in layer["received"] if home in homes)
            if taken > RAW_SHARE * source["bytes_out"] and taken > SMALL_CHUNK:
                yield (
                    f"{key_split(layer['name'])} needs {format_bytes(taken)} of"
                    f" {key_split(name)} as it was read, out of"
                    f" {format_bytes(source['bytes_out'])}, in another pool. Select or reduce at"
                    " the source first, if the result allows it."
                )
