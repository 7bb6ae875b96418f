"""A child process that answers JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import EngineError

_ROOT = str(Path(__file__).resolve().parents[2])


def environment() -> dict[str, str]:
    """This process's, in which a child finds this very package."""
    return {**os.environ, "PYTHONPATH": _ROOT}


class Child:
    """Asks a running child. Raises EngineError when it ends early, with what it said on stderr."""

    def __init__(
        self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None
    ) -> None:
        """env: its environment; default: one in which it finds this package."""
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment() if env is None else env,
            encoding="utf-8",
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """Its answer; waits as long as that takes."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it died of is told below
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """What it says next, asked or not."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()
        self.close()
        last = said.splitlines()[-1] if said else "nothing on stderr"
        error = EngineError(f"benchmark: {self.name} ended with code {code}: {last}")
        error.add_note(said)
        raise error

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
