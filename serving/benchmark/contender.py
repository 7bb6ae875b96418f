"""A contender as the benchmark sees it: a child process that is given one image at a time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving.errors import EngineError

Kind = Literal["ours", "paddlex", "rapidocr"]
Table = Literal["same", "own"]
"""Of the two tables: all with the same models and values, or each as it comes."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run, by which Python, with which settings (see child.py)."""

    name: str
    kind: Kind
    python: Path
    settings: Mapping[str, Any]
    table: Table = "same"


@dataclass(frozen=True, slots=True)
class Reading:
    """One page as a contender read it. `ms`: from the path to the texts."""

    texts: tuple[str, ...]
    ms: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many pages read by several callers at once; `failed` says why there are no texts."""

    texts: tuple[tuple[str, ...], ...]
    ms: float
    failed: str = ""


class Contender:
    """A running child. Raises EngineError when it ends early, with what it said on stderr."""

    def __init__(self, spec: Spec) -> None:
        self.name, self.table = spec.name, spec.table
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
        self._read_any = False

    def read(self, image: Path) -> Reading:
        """Reads one image file. The first counts as part of starting: some load models then."""
        answer = self._ask({"image": str(image.resolve())})
        if not self._read_any:
            self._read_any = True
            self.start_ms += float(answer["ms"])
        return Reading(tuple(answer["texts"]), float(answer["ms"]), float(answer["peak_mb"]))

    def read_at_once(self, images: Sequence[Path], callers: int) -> Crowd:
        """Reads image files by so many threads of the child at the same time."""
        paths = [str(image.resolve()) for image in images]
        answer = self._ask({"images": paths, "callers": callers})
        if "failed" in answer:
            return Crowd((), 0.0, str(answer["failed"]))
        return Crowd(tuple(tuple(texts) for texts in answer["texts"]), float(answer["ms"]))

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

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # _answer says what the child died of
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        return self._answer()

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
