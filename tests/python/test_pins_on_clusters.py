"""Where tasks run: the same table of computations with fed's scheduler and with stock Dask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.python import expressions
import fed
import numpy as np
import pytest
from tests.python import reads_of_workers

if TYPE_CHECKING:
    from pathlib import Path

    from distributed import Client

TABLE = expressions.EXPRESSIONS


@pytest.mark.parametrize("name", TABLE)
def test_no_worker_reads_another_pools_data(name: str, client: Client, data: Path) -> None:
    compute, expected = TABLE[name]
    before = fed.stats()
    result = compute(client, data)
    np.testing.assert_allclose(result, expected(data), rtol=1e-5, atol=1e-5)
    counts = reads_of_workers.take(client)
    assert counts["reads"] > 0
    assert counts["foreign"] == 0
    after = fed.stats()
    assert after["foreign_reads"] == before["foreign_reads"]
    assert after["cross_pool_steals"] == before["cross_pool_steals"]
