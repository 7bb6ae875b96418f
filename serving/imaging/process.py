"""One helper process as the server sees it: start it, ask it, end it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from serving.errors import EngineError
from serving.imaging import wire

# The caller's own search path, so that the helper finds the same `serving` however it was
# installed; the interpreter's start-up has run by then, import hooks of editable installs too.
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[3:]; from serving.imaging.helper import main; main()"
)
_START_SECONDS = 60.0
_DOCUMENTS = 200
"""After so many a helper is replaced, with whatever memory its decoders leaked."""


class HelperDied(Exception):
    """The helper ended instead of answering. The message says what that means."""


class HelperProcess:
    """A running helper. Raises EngineError where none can be started.

    Not safe under threads: `Pool` hands it to one at a time.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.document: int | None = None
        """Number of the document it has open."""
        self.spent = False
        """It has served its time: end it."""
        self._documents = 0
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                self._process = _spawn(theirs.fileno(), memory_bytes)
        except OSError as error:
            self._channel.close()
            raise EngineError(f"a decoding helper cannot be started: {error}") from error
        try:
            wire.receive(self._channel, deadline=time.monotonic() + _START_SECONDS)
        except (OSError, EOFError):
            self.end()
            raise EngineError(
                f"a decoding helper did not start (exit status {self._process.returncode}); its "
                "own message is on stderr: check that Pillow, numpy and pypdfium2 import"
            ) from None

    def open(self, number: int) -> None:
        """Note which document the next request brings."""
        self.document = number
        self._documents += 1

    def ask(
        self, request: dict[str, Any], descriptors: Sequence[int], deadline: float
    ) -> dict[str, Any]:
        """Its answer. Raises HelperDied, and TimeoutError after `deadline` (monotonic)."""
        try:
            self._channel.settimeout(max(deadline - time.monotonic(), 0.001))
            wire.send(self._channel, request, descriptors)
            answer, _ = wire.receive(self._channel, deadline=deadline)
        except TimeoutError:
            raise
        except (OSError, EOFError, ValueError):
            raise HelperDied(self._epitaph(request["seconds"])) from None
        if request.get("last") or "error" in answer:
            self.document = None
        self.spent = self._documents >= _DOCUMENTS or bool(answer.get("spent"))
        return answer

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """From any thread; the one that uses it must `end` it still."""
        self._process.kill()

    def end(self) -> None:
        """Kill it and leave no zombie and no descriptor. May be called twice."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._channel.close()

    def _epitaph(self, seconds: float) -> str:
        self._process.kill()
        status = self._process.wait()
        if status == -signal.SIGXCPU:
            return f"decoding takes more than {seconds:g} s of processor time"
        if status == -signal.SIGKILL:
            return "its decoder was killed, most likely because the machine ran out of memory"
        if status < 0:
            return f"it crashed its decoder ({signal.Signals(-status).name})"
        return f"its decoder ended with exit status {status}"


def _spawn(channel: int, memory_bytes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _BOOTSTRAP, str(channel), str(memory_bytes), *sys.path],
        stdin=subprocess.PIPE,  # its lifeline: see helper.py
        stdout=subprocess.DEVNULL,
        pass_fds=(channel,),
        # OpenBLAS reserves address space for every core, and computes nothing here.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # the terminal's Ctrl-C is the server's to answer
    )
