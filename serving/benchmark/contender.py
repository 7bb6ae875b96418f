"""A contender as the benchmark sees it: a child process that is given one image at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving.errors import EngineError

Kind = Literal["ours", "paddlex", "rapidocr"]


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run, by which Python, with which settings (see child.py)."""

    name: str
    kind: Kind
    python: Path
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """One page as a contender read it. `ms`: from the path to the texts."""

    texts: tuple[str, ...]
    ms: float
    peak_mb: float


class Contender:
    """A running child. Raises EngineError when it ends early, with what it said on stderr."""

    def __init__(self, spec: Spec) -> None:
        self.name = spec.name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        here = Path(__file__).resolve()
        environment = dict(os.environ)
        if spec.kind == "ours":
            environment["PYTHONPATH"] = str(here.parents[2])
        # -P: the child's folder must not shadow modules of the peer's.
        command = [spec.python, "-P", here.with_name("child.py"), spec.kind]
        self._process = subprocess.Popen(
            [*map(str, command), json.dumps(dict(spec.settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            encoding="utf-8",
        )
        first = self._answer()
        self.version = str(first["version"])
        self.start_ms = float(first["start_ms"])

    def read(self, image: Path) -> Reading:
        """Reads one image file."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # _answer says what the child died of
            self._process.stdin.write(json.dumps({"image": str(image.resolve())}) + "\n")
            self._process.stdin.flush()
        answer = self._answer()
        return Reading(tuple(answer["texts"]), float(answer["ms"]), float(answer["peak_mb"]))

    def close(self) -> None:
        """Ends the child."""
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

    def _answer(self) -> dict[str, Any]:
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
