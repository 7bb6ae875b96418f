"""The graphs that engines load, built once from a model folder and kept beside the models.

models/engines/graphs/<model name>-<key>/
    fused-7.onnx  8-bit pixels in, arg-max out
    about.json    what it was made from, in words
    lighter-2.onnx  a detector's as PaddleX feeds it
    int8-...      the same in int8, where a pipeline asks for it
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from serving.config.model import Model
from serving.convert import onnx_graph
from serving.engines.base import EngineSpec
from serving.errors import PlanError
from serving.graph import LIGHTER, VARIANT, fuse, lighten
from serving.parts import Part
from serving.plan.sameness import check_same
from serving.store import Progress
from serving.store.disk import publish, write_whole
from serving.store.files import digest, paddle_graph

if TYPE_CHECKING:
    from serving.plan.calibration import Calibration

GraphOf = Callable[[EngineSpec], Path]
"""Which file an engine of that spec loads, for one model."""


class Graphs:
    """Graphs under `models/engines`. Safe under several processes."""

    def __init__(self, models: Path) -> None:
        self._engines = models / "engines"

    def find(self, folder: Path, model: Model) -> Path:
        """The fused graph of a model folder. Raises PlanError where it is not built."""
        path = self._folder(folder, model.name) / f"{VARIANT}.onnx"
        if not path.is_file():
            raise PlanError(
                f"{model.name} ({folder}) has no engine yet; run: bash scripts/build_engines.sh"
            )
        return path

    def build(
        self, folder: Path, model: Model, progress: Progress | None = None, *, convert: bool = True
    ) -> Path:
        """The fused graph, made where it is missing. Waits for another process doing so.

        It appears under its name only when it is whole. `convert`: as `onnx_graph` has it.
        Raises ConfigError, ConversionError, ModelInvalid, EngineError.
        """
        target = self._folder(folder, model.name)
        target.mkdir(parents=True, exist_ok=True)
        fused = target / f"{VARIANT}.onnx"
        with FileLock(target / ".lock"):
            if not fused.is_file():
                part = fused.with_suffix(".part")
                plain = onnx_graph(folder, self._engines, convert=convert, progress=progress)
                fuse(plain, model, part)
                check_same(part, plain, model)
                about = {"model": model.name, "folder": str(folder), "files": digest(folder)}
                write_whole(target / "about.json", json.dumps(about, indent=2) + "\n")
                part.replace(fused)
        return fused

    def lighter(self, folder: Path, plain: Path) -> Path:
        """A detector's own graph `plain` in the form that takes less time; made where missing."""
        target = self._folder(folder, folder.resolve().name)
        target.mkdir(parents=True, exist_ok=True)
        lighter = target / f"{LIGHTER}.onnx"
        with FileLock(target / ".lock"):
            if not lighter.is_file():
                part = lighter.with_suffix(".part")
                lighten(plain, part)
                part.replace(lighter)
        return lighter

    def has(self, part: Part) -> bool:
        """Whether the fused graph of a model is built."""
        return (self._folder(part.folder, part.model.name) / f"{VARIANT}.onnx").is_file()

    def quantised(self, part: Part, int8: str, calibration: Calibration) -> None:
        """Make the int8 graph of that name where it is missing; it appears whole or not at all.

        Raises PlanError where the fused graph is not built, and EngineError.
        """
        from serving.plan.quantise import quantise  # what serving never needs

        fused = self.find(part.folder, part.model)
        target = fused.parent / int8
        with FileLock(fused.parent / ".lock"):
            if not target.is_dir():
                staged = target.with_name(f".{target.name}.part")
                shutil.rmtree(staged, ignore_errors=True)  # of a killed process
                staged.mkdir()
                quantise(part, fused, calibration, staged)
                publish(staged, target)

    def file(self, part: Part, int8: str, spec: EngineSpec) -> Path:
        """What an engine of that spec loads: Paddle's own graph, the int8 one or the fused one.

        int8: name of the int8 graph. Raises PlanError where it is not built.
        """
        if spec.backend == "paddle":
            return paddle_graph(part.folder)
        fused = self.find(part.folder, part.model)
        if spec.precision != "int8":
            return fused
        path = fused.parent / int8 / "graph.xml"
        if not path.is_file():
            raise PlanError(f"{path}: missing; run: bash scripts/build_engines.sh")
        return path

    def _folder(self, folder: Path, name: str) -> Path:
        return self._engines / "graphs" / f"{name}-{graph_key(folder)}"


def graph_key(folder: Path) -> str:
    """Key of a model's graphs: its files' bytes and the recipe of the fused variant."""
    return hashlib.sha256(f"{digest(folder)} {VARIANT}".encode()).hexdigest()[:12]
