"""A child process that answers JSON lines: the parent's side of it and the child's."""

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

_ROOT = str(Path(__file__).resolve().parents[2])


def environment() -> dict[str, str]:
    """This process's, in which a child finds this very package."""
    return {**os.environ, "PYTHONPATH": _ROOT}


class Child:
    """Asks a running child.

    Raises EngineError when it cannot be started, when it ends early, with what it said on stderr,
    and when it is killed as overdue.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        *,
        patience: float | None = None,
    ) -> None:
        """env: its environment; default: one in which it finds this package.

        patience: seconds to wait for an answer; default: as long as it takes.
        """
        self.name = name
        self._patience = patience
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        try:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment() if env is None else env,
                encoding="utf-8",
            )
        except OSError as error:
            self._log.close()
            raise EngineError(f"{name} cannot be started: {error}") from error

    def ask(self, **question: Any) -> dict[str, Any]:
        """Its answer."""
        self.tell(**question)
        return self.hear()

    def tell(self, **question: Any) -> None:
        """Ask, and hear the answer later."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it died of is told by hear()
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """What it says next, asked or not."""
        start = time.monotonic()
        line = self._line()
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()
        self.close()
        if self._patience is not None and time.monotonic() - start >= self._patience:
            raise EngineError(f"{self.name} did not answer within {self._patience:g} s")
        last = said.splitlines()[-1] if said else "nothing on stderr"
        error = EngineError(f"{self.name} ended with code {code}: {last}")
        error.add_note(said)
        raise error

    def _line(self) -> str:
        assert self._process.stdout is not None
        if self._patience is None:
            return self._process.stdout.readline()
        overdue = threading.Timer(self._patience, self._process.kill)
        overdue.start()
        try:
            return self._process.stdout.readline()
        finally:
            overdue.cancel()

    def close(self) -> None:
        """End it."""
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


class Parent:
    """In a child: who asks. The process ends with the parent, even while it works."""

    def __init__(self) -> None:
        # Libraries print where they like: what they print goes to stderr, the answers to the pipe.
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._asked: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def questions(self) -> Iterator[dict[str, Any]]:
        """What is asked, as it comes."""
        while True:
            yield json.loads(self._asked.get())

    def answer(self, **answer: Any) -> None:
        """Say one line."""
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()

    def _listen(self) -> None:
        # Not sys.stdin: an interpreter that ends would wait for the lock that this thread holds.
        with os.fdopen(os.dup(0), encoding="utf-8") as lines:
            for line in lines:
                self._asked.put(line)
        os._exit(0)  # nobody is left to answer
