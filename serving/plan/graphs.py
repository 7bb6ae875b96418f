"""The graphs that engines load, built once from a model folder and kept beside the models.

models/engines/graphs/<model name>-<key>/
    fused-3.onnx  8-bit pixels in, arg-max out
    about.json    what it was made from, in words
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from filelock import FileLock

from serving.config.model import Model
from serving.convert import onnx_graph
from serving.errors import PlanError
from serving.graph import VARIANT, fuse
from serving.store import Progress
from serving.store.disk import write_whole
from serving.store.files import digest


class Graphs:
    """Graphs under `models/engines`. Safe under several processes."""

    def __init__(self, models: Path) -> None:
        self._engines = models / "engines"

    def find(self, folder: Path, model: Model) -> Path:
        """The fused graph of a model folder. Raises PlanError where it is not built."""
        path = self._folder(folder, model) / f"{VARIANT}.onnx"
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
        Raises ConfigError, ConversionError, ModelInvalid.
        """
        target = self._folder(folder, model)
        target.mkdir(parents=True, exist_ok=True)
        fused = target / f"{VARIANT}.onnx"
        with FileLock(target / ".lock"):
            if not fused.is_file():
                part = fused.with_suffix(".part")
                plain = onnx_graph(folder, self._engines, convert=convert, progress=progress)
                fuse(plain, model, part)
                about = {"model": model.name, "folder": str(folder), "files": digest(folder)}
                write_whole(target / "about.json", json.dumps(about, indent=2) + "\n")
                part.replace(fused)
        return fused

    def _folder(self, folder: Path, model: Model) -> Path:
        return self._engines / "graphs" / f"{model.name}-{graph_key(folder)}"


def graph_key(folder: Path) -> str:
    """Key of a model's graphs: its files' bytes and the recipe of the fused variant."""
    return hashlib.sha256(f"{digest(folder)} {VARIANT}".encode()).hexdigest()[:12]
