"""TensorRT's engines as EP-context models, built once and kept beside the graphs.

models/engines/tensorrt/
    timing-<key>/       what TensorRT measured on this GPU, for later builds
    <model>-<key>/
        context.onnx    the engine
        about.json      what it was made from, in words, and its profile

An int8 graph of a model, by NNCF's post-training quantisation on the calibration set.

Build time only, and only where `hpi_config` asks for int8. Serving loads the result without NNCF.

The graphs that engines load, built once from a model folder and kept beside the models.

models/engines/graphs/<model name>-<key>/
    fused-7.onnx  8-bit pixels in, arg-max out
    about.json    what it was made from, in words
    optimized-2.onnx  a detector's as PaddleX feeds it
    int8-...      the same in int8, where a pipeline asks for it
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from serving.config.model import Model
from serving.engines.base import EngineSpec
from serving.engines.factory import open_engine
from serving.engines.tensorrt import ABOUT, CONTEXT, Profile
from serving.errors import EngineError, PlanError
from serving.models.conversion import onnx_graph
from serving.models.files import digest, paddle_graph, publish, write_atomically
from serving.models.pipeline_models import PipelineModel
from serving.models.progress import Progress
from serving.optimize.fuse import OPTIMIZED, VARIANT, fuse, optimize_detector
from serving.optimize.parity import verify_parity
from serving.plan.bench import BENCHES, spread
from serving.plan.calibration import Calibration
from serving.plan.candidates import MAX_BATCH, gpu_identity, version
from serving.plan.plan import key
from serving.plan.shapes import profile

if TYPE_CHECKING:
    from serving.plan.calibration import Calibration


NNCF = "nncf>=3,<4"
"""As the extra `int8` has it."""

_INPUTS = 300
"""Inputs whose activations are looked at, evenly spread over the calibration set."""


def nncf_version() -> str | None:
    """The version that would quantise; None where NNCF is not installed."""
    if importlib.util.find_spec("nncf") is None:
        return None
    return metadata.version("nncf")


def require_nncf() -> str:
    """NNCF's version. Raises PlanError with the line that installs it."""
    version = nncf_version()
    if version is None:
        raise PlanError(
            "precision: int8 is made with NNCF, which is not installed; "
            f"run: {sys.executable} -m pip install '{NNCF}'"
        )
    return version


def quantise(part: PipelineModel, fused: Path, calibration: Calibration, folder: Path) -> None:
    """Write the int8 form of the fused graph into `folder` as graph.xml and graph.bin.

    Raises EngineError where NNCF cannot.
    """
    os.environ.setdefault("NNCF_CI", "ON")  # else importing it reports its use to its makers
    with contextlib.redirect_stdout(io.StringIO()):  # it draws its progress there
        import nncf
        import openvino as ov

        nncf.set_log_level(40)  # errors
        reader = open_engine(fused, EngineSpec("onnxruntime"))
        with closing(BENCHES[part.section](part, reader, calibration)) as bench:
            inputs = [image[None] for image in spread(bench.inputs(), _INPUTS)]
        try:
            model = nncf.quantize(
                ov.Core().read_model(fused),
                nncf.Dataset(inputs),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(inputs),
            )
            ov.save_model(model, folder / "graph.xml", compress_to_fp16=False)
        except Exception as error:  # NNCF's errors share no base
            raise EngineError(f"{part.model.name}: NNCF cannot quantise it: {error}") from error


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
                verify_parity(part, plain, model)
                about = {"model": model.name, "folder": str(folder), "files": digest(folder)}
                write_atomically(target / "about.json", json.dumps(about, indent=2) + "\n")
                part.replace(fused)
        return fused

    def optimized(self, folder: Path, plain: Path) -> Path:
        """A detector's own graph `plain` in the form that takes less time; made where missing."""
        target = self._folder(folder, folder.resolve().name)
        target.mkdir(parents=True, exist_ok=True)
        optimized = target / f"{OPTIMIZED}.onnx"
        with FileLock(target / ".lock"):
            if not optimized.is_file():
                part = optimized.with_suffix(".part")
                optimize_detector(plain, part)
                part.replace(optimized)
        return optimized

    def has(self, part: PipelineModel) -> bool:
        """Whether the fused graph of a model is built."""
        return (self._folder(part.folder, part.model.name) / f"{VARIANT}.onnx").is_file()

    def quantised(self, part: PipelineModel, int8: str, calibration: Calibration) -> None:
        """Make the int8 graph of that name where it is missing; it appears whole or not at all.

        Raises PlanError where the fused graph is not built, and EngineError.
        """
        from serving.plan.graphs import quantise  # what serving never needs

        fused = self.find(part.folder, part.model)
        target = fused.parent / int8
        with FileLock(fused.parent / ".lock"):
            if not target.is_dir():
                staged = target.with_name(f".{target.name}.part")
                shutil.rmtree(staged, ignore_errors=True)  # of a killed process
                staged.mkdir()
                quantise(part, fused, calibration, staged)
                publish(staged, target)

    def file(self, part: PipelineModel, int8: str, spec: EngineSpec) -> Path:
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


@dataclass(frozen=True, slots=True)
class Contexts:
    """Engines under `models/engines/tensorrt`. Safe under several processes."""

    models: Path

    def find(self, part: PipelineModel, spec: EngineSpec) -> Path:
        """The engine of a model on this GPU. Raises PlanError where it is not built."""
        path = self._folder(part, _words(part, spec)) / CONTEXT
        if not path.is_file():
            raise PlanError(
                f"{part.model.name} has no TensorRT engine for this GPU, driver and TensorRT; run: "
                "bash scripts/build_engines.sh"
            )
        return path

    def build(self, part: PipelineModel, spec: EngineSpec, graph: Path, progress: Progress) -> Path:
        """The engine, built where it is missing; it appears under its name only when it is whole.

        Raises EngineError where TensorRT cannot build it or does not take the graph whole.
        """
        words = _words(part, spec)
        target = self._folder(part, words)
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not (target / CONTEXT).is_file():
                progress.message(
                    f"{part.model.name}: TensorRT builds a {spec.precision} engine (minutes)"
                )
                half = target.with_suffix(".part")
                shutil.rmtree(half, ignore_errors=True)  # of a build that was killed
                half.mkdir()
                nodes = self._make(graph, spec, profile(part, MAX_BATCH), half)
                about = {**words, "nodes": nodes}
                write_atomically(half / ABOUT, json.dumps(about, indent=2) + "\n")
                half.replace(target)
        return target / CONTEXT

    def _make(self, graph: Path, spec: EngineSpec, shapes: Profile, folder: Path) -> dict[str, int]:
        from serving.engines.onnxruntime import build_context

        about = {"tensorrt": version("tensorrt"), **gpu_identity(spec.device)}
        timing = folder.parent / f"timing-{key(about)}"
        timing.mkdir(exist_ok=True)
        return build_context(graph, spec, shapes, folder, timing)

    def _folder(self, part: PipelineModel, words: dict[str, Any]) -> Path:
        return self.models / "engines" / "tensorrt" / f"{part.model.name}-{key(words)}"


def _words(part: PipelineModel, spec: EngineSpec) -> dict[str, Any]:
    """What an engine depends on. One engine serves every batch that its profile holds."""
    return {
        "model": part.model.name,
        "files": digest(part.folder),
        "graph": VARIANT,
        "version": version("tensorrt"),
        "device": gpu_identity(spec.device),
        "precision": spec.precision,
        "options": dict(spec.options),
        "profile": profile(part, MAX_BATCH).to_dict(),
    }
