"""Waiting for something that happens by itself, bounded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine."""


def until(question: Callable[[], T], wanted: Callable[[T], bool] = bool, *,
          patience: float = PATIENCE) -> T:  # fmt: skip
    """Ask until the answer is as wanted, and return it.

    Parameters
    ----------
    question
        Asked again and again.
    wanted
        Whether an answer is the awaited one; by default, whether it is true.
    patience
        Seconds after which this fails with the last answer.
    """
    deadline = time.monotonic() + patience
    while True:
        answer = question()
        if wanted(answer):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"still {answer!r} after {patience:g} s")
        time.sleep(0.1)
