"""A contender as the benchmark sees it: a child process that is given one image at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serving.plan.child import Child, environment

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
        here = Path(__file__).resolve()
        # -P: the child's folder must not shadow modules of the peer's.
        script = here.with_name("child.py")
        settings = json.dumps(dict(spec.settings))
        command: list[str | Path] = [spec.python, "-P", script, spec.kind, settings]
        env = environment() if spec.kind == "ours" else os.environ
        self._child = Child(self.name, command, env)
        first = self._child.hear()
        self.version = str(first["version"])
        self.start_ms = float(first["start_ms"])
        self._read_any = False

    def read(self, image: Path) -> Reading:
        """Reads one image file. The first counts as part of starting: some load models then."""
        answer = self._child.ask(image=str(image.resolve()))
        if not self._read_any:
            self._read_any = True
            self.start_ms += float(answer["ms"])
        return Reading(tuple(answer["texts"]), float(answer["ms"]), float(answer["peak_mb"]))

    def read_at_once(self, images: Sequence[Path], callers: int) -> Crowd:
        """Reads image files by so many threads of the child at the same time."""
        paths = [str(image.resolve()) for image in images]
        answer = self._child.ask(images=paths, callers=callers)
        if "failed" in answer:
            return Crowd((), 0.0, str(answer["failed"]))
        return Crowd(tuple(tuple(texts) for texts in answer["texts"]), float(answer["ms"]))

    def close(self) -> None:
        """Ends the child."""
        self._child.close()
