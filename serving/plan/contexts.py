"""TensorRT's engines as EP-context models, built once and kept beside the graphs.

models/engines/tensorrt/
    timing-<key>/       what TensorRT measured on this GPU, for later builds
    <model>-<key>/
        context.onnx    the engine
        about.json      what it was made from, in words, and its profile
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from serving.engines.base import EngineSpec
from serving.engines.tensorrt import ABOUT, CONTEXT, Profile
from serving.errors import PlanError
from serving.graph import VARIANT
from serving.parts import Part
from serving.plan.candidates import version
from serving.plan.gpus import MOST_LINES, gpu_words
from serving.plan.keys import key
from serving.plan.profiles import profile
from serving.store import Progress
from serving.store.disk import write_whole
from serving.store.files import digest


@dataclass(frozen=True, slots=True)
class Contexts:
    """Engines under `models/engines/tensorrt`. Safe under several processes."""

    models: Path

    def find(self, part: Part, spec: EngineSpec) -> Path:
        """The engine of a model on this GPU. Raises PlanError where it is not built."""
        path = self._folder(part, _words(part, spec)) / CONTEXT
        if not path.is_file():
            raise PlanError(
                f"{part.model.name} has no TensorRT engine for this GPU, driver and TensorRT; run: "
                "bash scripts/build_engines.sh"
            )
        return path

    def build(self, part: Part, spec: EngineSpec, graph: Path, progress: Progress) -> Path:
        """The engine, built where it is missing; it appears under its name only when it is whole.

        Raises EngineError where TensorRT cannot build it or does not take the graph whole.
        """
        words = _words(part, spec)
        target = self._folder(part, words)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not (target / CONTEXT).is_file():
                progress.say(
                    f"{part.model.name}: TensorRT builds a {spec.precision} engine (minutes)"
                )
                half = target.with_suffix(".part")
                shutil.rmtree(half, ignore_errors=True)  # of a build that was killed
                half.mkdir()
                nodes = self._make(graph, spec, profile(part, MOST_LINES), half)
                about = {**words, "nodes": nodes}
                write_whole(half / ABOUT, json.dumps(about, indent=2) + "\n")
                half.replace(target)
        return target / CONTEXT

    def _make(self, graph: Path, spec: EngineSpec, shapes: Profile, folder: Path) -> dict[str, int]:
        from serving.engines.onnxruntime import build_context

        about = {"tensorrt": version("tensorrt"), **gpu_words(spec.device)}
        timing = folder.parent / f"timing-{key(about)}"
        timing.mkdir(exist_ok=True)
        return build_context(graph, spec, shapes, folder, timing)

    def _folder(self, part: Part, words: dict[str, Any]) -> Path:
        return self.models / "engines" / "tensorrt" / f"{part.model.name}-{key(words)}"


def _words(part: Part, spec: EngineSpec) -> dict[str, Any]:
    """What an engine depends on. One engine serves every batch that its profile holds."""
    return {
        "model": part.model.name,
        "files": digest(part.folder),
        "graph": VARIANT,
        "version": version("tensorrt"),
        "device": gpu_words(spec.device),
        "precision": spec.precision,
        "options": dict(spec.options),
        "profile": profile(part, MOST_LINES).words(),
    }
