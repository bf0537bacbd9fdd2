"""What the benchmarks' command lines have in common."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a benchmark, which knows ``--output``.

    From now on SIGTERM ends the program as Ctrl-C does: what it started is ended, and its folders
    are taken away.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--output", type=Path, help="a JSON file for what was measured")
    return options


def save(output: Path | None, found: dict[str, Any]) -> None:
    """Write what was measured, if it is to be written."""
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(found, indent=1) + "\n")
