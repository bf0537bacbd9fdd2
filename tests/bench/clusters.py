"""Two clusters on this machine, so that whatever else the machine does meets both."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.python import federations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.python.federations import Cluster


@contextmanager
def side_by_side() -> Iterator[dict[str, Cluster]]:
    """Run a cluster of two pools with fed's extension, ``fed``, and one without, ``stock``."""
    with tempfile.TemporaryDirectory(prefix="fed-bench-") as name:
        folders = {kind: Path(name) / kind for kind in ("fed", "stock")}
        for folder in folders.values():
            folder.mkdir()
        with (
            federations.running(folders["fed"], folders["fed"], with_fed=True) as ours,
            federations.running(folders["stock"], folders["stock"], with_fed=False) as stock,
        ):
            yield {"fed": ours, "stock": stock}
