"""How the demonstration talks to its warm interpreters: a word in, a line of JSON out."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def answer(document: dict[str, Any]) -> None:
    """Send one line of JSON."""
    print(json.dumps(document), flush=True)


def serve(calculate: Callable[[str], dict[str, Any]]) -> None:
    """Say that the interpreter is warm; then call ``calculate`` with each name that comes in."""
    answer({"ready": True})
    for line in sys.stdin:
        answer(calculate(line.strip()))
