"""Child processes that answer requests: JSON lines over pipes, both ends."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from serving.errors import EngineError

_ROOT = str(Path(__file__).resolve().parents[1])


def child_environment() -> dict[str, str]:
    """This process's environment, in which a child imports this very package."""
    return {**os.environ, "PYTHONPATH": _ROOT}


class ChildProcess:
    """The parent's end.

    Raises EngineError when the process cannot be started, when it ends early (with its stderr) and
    when it was killed at the timeout.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """env: default: `child_environment()`. timeout: seconds to wait for a response; default:
        no limit.
        """
        self.name = name
        self._timeout = timeout
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        try:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=child_environment() if env is None else env,
                encoding="utf-8",
            )
        except OSError as error:
            self._log.close()
            raise EngineError(f"{name} cannot be started: {error}") from error

    def request(self, **content: Any) -> dict[str, Any]:
        """Send and wait for the response."""
        self.send(**content)
        return self.receive()

    def send(self, **content: Any) -> None:
        """Send a request; `receive` returns its response."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # receive() reports why the child ended
            self._process.stdin.write(json.dumps(content) + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The next response, or what the child sends unasked at its start."""
        start = time.monotonic()
        line = self._read_line()
        if line.endswith("\n"):
            response: dict[str, Any] = json.loads(line)
            return response
        code = self._process.wait()
        self._log.seek(0)
        stderr = self._log.read().decode(errors="replace").strip()
        self.close()
        if self._timeout is not None and time.monotonic() - start >= self._timeout:
            raise EngineError(f"{self.name} did not answer within {self._timeout:g} s")
        last = stderr.splitlines()[-1] if stderr else "nothing on stderr"
        error = EngineError(f"{self.name} ended with code {code}: {last}")
        error.add_note(stderr)
        raise error

    def close(self) -> None:
        """End the process; kill it if it takes longer than 10 s."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        if self._timeout is None:
            return self._process.stdout.readline()
        timer = threading.Timer(self._timeout, self._process.kill)
        timer.start()
        try:
            return self._process.stdout.readline()
        finally:
            timer.cancel()


class ParentConnection:
    """The child's end. The process ends with its parent, even in the middle of work."""

    def __init__(self) -> None:
        # Libraries print to stdout: send that to stderr, and keep the pipe for the responses.
        self._responses = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._requests: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def requests(self) -> Iterator[dict[str, Any]]:
        """The parent's requests, without end."""
        while True:
            yield json.loads(self._requests.get())

    def respond(self, **content: Any) -> None:
        """Send one response."""
        self._responses.write(json.dumps(content) + "\n")
        self._responses.flush()

    def _listen(self) -> None:
        # Not sys.stdin: at exit the interpreter would wait for the lock that this thread holds.
        with os.fdopen(os.dup(0), encoding="utf-8") as lines:
            for line in lines:
                self._requests.put(line)
        os._exit(0)  # the parent has gone
