"""A Python session in a lab host, which the tests use as a scientist uses a notebook.

Run as a program, this file is the session: it calls what it reads from standard input.
"""

from __future__ import annotations

import os
import pickle
import selectors
import struct
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.e2e.lab import Host

LENGTH = struct.Struct(">Q")


class NotebookError(Exception):
    """The session ended, did not answer, or answered with what cannot be pickled."""


class Notebook:
    """A session in a host; a context manager.

    Functions reach it by value, with the globals that they use; modules by name.

    Parameters
    ----------
    host
        The host.
    python
        The interpreter, as the host sees it.
    env
        The environment of the session.
    user
        Numbers of the user and group to run as; the lab's own by default.
    """

    def __init__(
        self,
        host: Host,
        python: str,
        env: Mapping[str, str],
        user: tuple[int, int] | None = None,
    ) -> None:
        program = Path(__file__).read_text(encoding="utf-8")
        self._process = host.popen(
            [python, "-c", program],
            user=user,
            env=dict(env),
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; kill it if it does not end by itself."""
        with suppress(BrokenPipeError):
            self._requests.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()

    def __call__(self, function: Callable[..., Any], *args: Any, patience: float = 90.0) -> Any:
        """Call a function in the session, and return or raise what it returns or raises.

        Parameters
        ----------
        function
            Of a module that `register` has seen, or importable in the session.
        *args
            Its arguments.
        patience
            Seconds that the call may take.
        """
        import cloudpickle

        request = cloudpickle.dumps((function, args))
        try:
            self._requests.write(LENGTH.pack(len(request)) + request)
            self._requests.flush()
        except BrokenPipeError:
            raise NotebookError(f"the session ended ({self._process.wait(20)})") from None
        deadline = time.monotonic() + patience
        (length,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
        is_error, answer = pickle.loads(self._read(length, deadline))
        if is_error:
            raise answer
        return answer

    def connect(self, name: str | None = None) -> None:
        """Connect the session to a federation of the operator."""
        register(sys.modules[__name__])
        self(_connect, name)

    def _read(self, length: int, deadline: float) -> bytes:
        descriptor = self._answers.fileno()
        parts = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while len(parts) < length:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self._process.kill()
                    raise NotebookError("the call took too long, so the session was killed")
                part = os.read(descriptor, length - len(parts))
                if not part:
                    raise NotebookError(f"the session ended ({self._process.wait(20)})")
                parts += part
        return bytes(parts)


def register(module: Any) -> None:
    """Send functions of a module by value from now on: sessions cannot import tests."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)


def _connect(name: str | None) -> None:
    import fed

    fed.connect(name)


def _answer(request: bytes) -> bytes:
    import cloudpickle

    try:
        function, args = pickle.loads(request)
        return cloudpickle.dumps((False, function(*args)))
    except Exception as error:  # noqa: BLE001 - the caller raises it again
        with suppress(Exception):
            pickled = cloudpickle.dumps((True, error))
            pickle.loads(pickled)
            return pickled
        return cloudpickle.dumps((True, RuntimeError("".join(traceback.format_exception(error)))))


def _serve() -> None:
    # What the functions print goes to standard error.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while header := sys.stdin.buffer.read(LENGTH.size):
        answer = _answer(sys.stdin.buffer.read(*LENGTH.unpack(header)))
        answers.write(LENGTH.pack(len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    _serve()
