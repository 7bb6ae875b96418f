"""The files that engines load: built once from a model folder, cached beside the models.

models/engines/
    graphs/<model>-<key>/
        about.json        what they were made from
        *.sha256          the hash of each file: what loads is checked
        fused-9.onnx      8-bit pixels in, arg-max out
        int8-2.onnx       the same with its large layers in 8-bit integers
        optimized-3.onnx  a detector's with PaddleX's inputs and outputs
    tensorrt/
        timing-<key>/     what TensorRT measured on this GPU, for later builds
        <model>-<key>/
            about.json    what the engine was made from, and its profile
            context.onnx  the engine as an EP-context model
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from serving.config.model import Model
from serving.disk import is_intact, publish, sidecar, write_atomically, write_sidecar
from serving.engines.base import EngineSpec
from serving.engines.tensorrt import ABOUT, CONTEXT
from serving.errors import BUILD, PlanError
from serving.models.conversion import converted_path, onnx_graph
from serving.models.files import digest, paddle_graph
from serving.models.pipeline_models import PipelineModel
from serving.optimize.fuse import OPTIMIZED, VARIANT, check_input_size, fuse, optimize_detector
from serving.optimize.parity import verify_parity
from serving.optimize.quantise import QUANTISED, quantise
from serving.plan.candidates import MAX_BATCH, gpu_identity, version
from serving.plan.plan import check_intact, key
from serving.plan.shapes import profile
from serving.progress import Progress
from serving.types import Image

GraphOf = Callable[[EngineSpec], Path]
"""Which file an engine of that spec loads, for one model."""


class Graphs:
    """The cache under `models`. Several processes may use it: each file is built by one of them,
    under a lock, and appears under its name only when it is complete.
    """

    def __init__(self, models: Path, command: str = BUILD) -> None:
        """command: what errors tell to run."""
        self._engines, self._command = models / "engines", command

    def file(self, part: PipelineModel, spec: EngineSpec) -> Path:
        """What an engine of that spec loads. Raises PlanError where it is not built or damaged."""
        if spec.backend == "paddle":
            return paddle_graph(part.folder)
        if spec.precision == "int8":
            quantised = self._quantised(part)
            self._check(quantised, f"{part.model.name} ({part.folder}) has no int8 graph")
            return quantised
        if spec.backend != "tensorrt":
            return self.find(part.folder, part.model)
        folder = self._tensorrt_folder(part, _tensorrt_inputs(part, spec))
        what = f"{part.model.name} ({part.folder}) has no TensorRT engine for this GPU and driver"
        for name in (ABOUT, CONTEXT):
            self._check(folder / name, what)
        return folder / CONTEXT

    def has(self, part: PipelineModel) -> bool:
        """Whether the fused graph of a model is built, and intact."""
        return is_intact(self._fused(part.folder, part.model))

    def find(self, folder: Path, model: Model) -> Path:
        """The fused graph of a model folder. Raises PlanError where it is not built or damaged."""
        path = self._fused(folder, model)
        self._check(path, f"{model.name} ({folder}) has no engine yet")
        return path

    def files(self, folder: Path, name: str) -> list[Path]:
        """What is cached of a model folder: its conversion and its graphs, TensorRT's aside."""
        conversion = converted_path(folder, self._engines)
        graphs = {self._folder(folder, name), self._folder(folder, folder.resolve().name)}
        cached = [path for folder in sorted(graphs) for path in folder.glob("[!.]*")]
        return [path for path in (conversion, sidecar(conversion), *cached) if path.is_file()]

    def build(
        self, folder: Path, model: Model, progress: Progress | None = None, *, convert: bool = True
    ) -> Path:
        """The fused graph, built where it is missing.

        convert: as `onnx_graph` has it.
        Raises ConfigError, ConversionError, ModelInvalid, EngineError.
        """
        fused = self._fused(folder, model)
        plain = onnx_graph(folder, self._engines, convert=convert, progress=progress)
        check_input_size(plain, model)
        with _missing(fused) as staged:
            if staged:
                fuse(plain, model, staged)
                verify_parity(staged, plain, model)
                about = {"model": model.name, "folder": str(folder), "files": digest(folder)}
                _write_json(fused.with_name("about.json"), about)
        return fused

    def build_optimized(self, folder: Path, plain: Path) -> Path:
        """The faster form of a detector's own graph `plain`, built where it is missing."""
        optimized = self._folder(folder, folder.resolve().name) / f"{OPTIMIZED}.onnx"
        with _missing(optimized) as staged:
            if staged:
                optimize_detector(plain, staged)
        return optimized

    def build_quantised(
        self, part: PipelineModel, samples: Callable[[], Sequence[Image]], progress: Progress
    ) -> Path:
        """The int8 variant of the fused graph, built where it is missing.

        samples: gives inputs of the model. Raises EngineError where nothing of it can be quantised.
        """
        quantised = self._quantised(part)
        with _missing(quantised) as staged:
            if staged:
                progress.message(f"{part.model.name}: finding the layers that int8 suits")
                fused = self.find(part.folder, part.model)
                quantise(fused, part.model, samples(), staged)
        return quantised

    def build_tensorrt(
        self, part: PipelineModel, spec: EngineSpec, graph: Path, progress: Progress
    ) -> Path:
        """The TensorRT engine of `graph` on this GPU, built where it is missing.

        Raises EngineError where TensorRT cannot build it or does not take the graph whole.
        """
        inputs = _tensorrt_inputs(part, spec)
        target = self._tensorrt_folder(part, inputs)
        with _missing(target) as staged:
            if staged:
                from serving.engines.onnxruntime import build_context

                progress.message(
                    f"{part.model.name}: TensorRT builds a {spec.precision} engine (minutes)"
                )
                staged.mkdir()
                gpu = {"tensorrt": version("tensorrt"), **gpu_identity(spec.device)}
                timing = target.with_name(f"timing-{key(gpu)}")
                timing.mkdir(exist_ok=True)
                nodes = build_context(graph, spec, profile(part, spec, MAX_BATCH), staged, timing)
                _write_json(staged / ABOUT, {**inputs, "nodes": nodes})
        return target / CONTEXT

    def _check(self, path: Path, absent: str) -> None:
        """Raise PlanError where a cached file is missing, or not what was built."""
        if not path.is_file():
            raise PlanError(f"{absent}; run: {self._command}")
        check_intact(path, self._command)

    def _folder(self, folder: Path, name: str) -> Path:
        """Keyed by the model's files and the recipe of the fused graph."""
        content = f"{digest(folder)} {VARIANT}".encode()
        return self._engines / "graphs" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"

    def _fused(self, folder: Path, model: Model) -> Path:
        return self._folder(folder, model.name) / f"{VARIANT}.onnx"

    def _quantised(self, part: PipelineModel) -> Path:
        return self._folder(part.folder, part.model.name) / f"{QUANTISED}.onnx"

    def _tensorrt_folder(self, part: PipelineModel, inputs: dict[str, Any]) -> Path:
        return self._engines / "tensorrt" / f"{part.model.name}-{key(inputs)}"


@contextmanager
def _missing(target: Path) -> Iterator[Path | None]:
    """Where to write `target`, a file or folder, under a lock; None where it is there and intact.

    On leaving without an error what was written gets its hashes and is renamed to `target`; else
    it is removed.
    """
    names = (ABOUT, CONTEXT) if target.suffix != ".onnx" else ("",)

    def is_there() -> bool:
        return all(is_intact(target / name) for name in names)

    if is_there():  # needs no waiting for whoever makes another file of this folder for minutes
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):
        if is_there():
            yield None
            return
        staged = target.with_name(f".{target.name}.part")
        _remove(staged)  # of a killed process
        try:
            yield staged
            _remove(target)  # damaged
            for path in list(staged.iterdir()) if staged.is_dir() else ():
                write_sidecar(path)
            if staged.is_file():
                write_sidecar(staged, target.name)
            publish(staged, target)
        finally:
            _remove(staged)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def _tensorrt_inputs(part: PipelineModel, spec: EngineSpec) -> dict[str, Any]:
    """What a TensorRT engine depends on. One engine serves every batch size in its profile."""
    return {
        "model": part.model.name,
        "files": digest(part.folder),
        "graph": VARIANT,
        "version": version("tensorrt"),
        "device": gpu_identity(spec.device),
        "precision": spec.precision,
        "options": dict(spec.options),
        "profile": profile(part, spec, MAX_BATCH).to_dict(),
    }
