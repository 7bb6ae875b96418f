"""The systems that are compared, each a child process (runner.py): this project and its peers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from serving.child import ChildProcess, child_environment
from serving.config.model import DetectionModel, RecognitionModel
from serving.config.options import DEFAULT_OPTIONS
from serving.config.pipeline import TextDetection, TextRecognition, load_config
from serving.errors import PlanError
from serving.imaging.resize import SizeLimit
from serving.models.conversion import needs_conversion, onnx_graph
from serving.models.files import model_files
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.ocr.db import DbParameters
from serving.ocr.detect import db_parameters, size_limit

Kind = Literal["ours", "paddlex", "rapidocr", "turboocr"]
Setup = Literal["same", "default"]
"""same: the same model files and values for all; default: each with its own defaults."""

_ENGINE_KEYS = {"enable_hpi", "use_hpip", "hpi_config", "engine", "engine_config"}
"""YAML keys that choose an engine: the benchmark chooses PaddleX's."""
_TITLES = {
    "paddle_static": "Paddle Inference",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
_TURBOOCR_FILES = {
    "PP-OCRv6_tiny_det": ("tiny", "det_tiny.onnx", ""),
    "PP-OCRv6_tiny_rec": ("tiny", "rec_tiny.onnx", "keys_tiny.txt"),
    "PP-OCRv6_small_det": ("small", "det_small.onnx", ""),
    "PP-OCRv6_small_rec": ("small", "rec_small.onnx", "keys.txt"),
}
"""Model -> TurboOCR's name for the pair, and its files for the graph and the dictionary."""


@dataclass(frozen=True, slots=True)
class SystemSpec:
    """What to run, on which Python, with which settings (see runner.py)."""

    name: str
    kind: Kind
    python: Path
    settings: Mapping[str, Any]
    setup: Setup = "same"
    model: str = ""
    """The pipeline whose models it runs, where systems are compared model by model."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One page as a system read it. `ms`: from the path to the texts."""

    texts: tuple[str, ...]
    ms: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class ConcurrentReading:
    """Pages read by several threads. `error`: why there are no texts."""

    texts: tuple[tuple[str, ...], ...]
    ms: float
    error: str = ""


class System:
    """A running system. Raises EngineError, with its output, if its process ends early."""

    def __init__(self, spec: SystemSpec) -> None:
        self.name, self.setup, self.model = spec.name, spec.setup, spec.model
        script = Path(__file__).resolve().with_name("runner.py")
        # -P: this folder must not shadow modules of the peer's.
        command: list[str | Path] = [spec.python, "-P", script, spec.kind]
        command.append(json.dumps(dict(spec.settings)))
        env = child_environment() if spec.kind == "ours" else os.environ
        self._child = ChildProcess(self.name, command, env)
        started = self._child.receive()
        self.version = str(started["version"])
        self.start_ms = float(started["start_ms"])
        """Loading, and the first page: some systems load their models only then."""
        self._has_read = False

    def read(self, image: Path) -> Reading:
        """Read one image file."""
        answer = self._child.request(image=str(image.resolve()))
        if not self._has_read:
            self._has_read = True
            self.start_ms += float(answer["ms"])
        return Reading(tuple(answer["texts"]), float(answer["ms"]), float(answer["peak_mb"]))

    def read_concurrently(self, images: Sequence[Path], callers: int) -> ConcurrentReading:
        """Read image files, once each, on `callers` threads."""
        answer = self._child.request(images=_paths(images), callers=callers)
        if "error" in answer:
            return ConcurrentReading((), 0.0, str(answer["error"]))
        texts = tuple(tuple(texts) for texts in answer["texts"])
        return ConcurrentReading(texts, float(answer["ms"]))

    def read_for(self, seconds: float, images: Sequence[Path], callers: int) -> list[float]:
        """Closed loop: read image files again and again on `callers` threads.

        Returns when each page was done, in seconds since the start.
        """
        answer = self._child.request(images=_paths(images), callers=callers, seconds=seconds)
        return list(answer["done"])

    def close(self) -> None:
        """End the process."""
        self._child.close()


def _paths(images: Sequence[Path]) -> list[str]:
    return [str(image.resolve()) for image in images]


def ours(pipeline: Path, models: Path) -> SystemSpec:
    """This project, line orientation off."""
    settings = _our_settings(pipeline, models, {"use_textline_orientation": False})
    return SystemSpec(f"ours, {pipeline.stem}", "ours", Path(sys.executable), settings)


def peers(
    pipeline: Path, models: Path, paddlex: Path | None, rapidocr: Path | None, scratch: Path
) -> list[SystemSpec]:
    """PaddleX and RapidOCR on these Pythons: with the pipeline's files and values, then each with
    its own defaults, and this project's beside them.

    scratch: an empty folder that lives as long as they run.
    """
    same: list[SystemSpec] = []
    default: list[SystemSpec] = []
    if paddlex is not None:
        for engine in ("paddle_static", "onnxruntime"):
            same += paddlex_on(engine, pipeline, models, paddlex, scratch / engine)
        default += _paddlex_defaults(pipeline, models, paddlex)
    if rapidocr is not None:
        for engine in ("onnxruntime", "openvino"):
            same.append(_rapidocr(pipeline, models, rapidocr, scratch, engine))
            default.append(_rapidocr_defaults(rapidocr, engine))
    if default:
        settings = _our_settings(pipeline, models, {})
        python = Path(sys.executable)
        default.insert(0, SystemSpec("ours, own defaults", "ours", python, settings, "default"))
    return same + default


def by_model(
    pipeline: Path,
    models: Path,
    paddlex: Path | None,
    rapidocr: Path | None,
    turboocr: Path | None,
    scratch: Path,
) -> list[SystemSpec]:
    """This project, and on these Pythons each peer that runs the pipeline's models, on its fastest
    engine for a CPU; with the pipeline's files and values.

    scratch: an empty folder that lives as long as they run.
    """
    specs = [ours(pipeline, models)]
    if paddlex is not None:
        specs += paddlex_on("onnxruntime", pipeline, models, paddlex, scratch / "paddlex")
    if rapidocr is not None:
        specs.append(_rapidocr(pipeline, models, rapidocr, scratch, "openvino"))
    if turboocr is not None:
        specs += _turboocr(pipeline, models, turboocr, scratch / "turboocr")
    named = [specs[0], *(replace(spec, name=f"{spec.name}, {pipeline.stem}") for spec in specs[1:])]
    return [replace(spec, model=pipeline.stem) for spec in named]


def graphs_mb(pipeline: Path, models: Path) -> float:
    """MB of the ONNX files of detection and recognition."""
    return sum(onnx.stat().st_size for _, onnx in _graphs(pipeline, models)) / 1e6


def _our_settings(pipeline: Path, models: Path, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "yaml": str(pipeline.resolve()),
        "models": str(models.resolve()),
        "options": options,
    }


def paddlex_on(
    engine: str, pipeline: Path, models: Path, python: Path, scratch: Path
) -> Iterator[SystemSpec]:
    """PaddleX on one of its engines, with its default number of threads; nothing for Paddle
    Inference where a model has no Paddle graph."""
    data = yaml.safe_load(pipeline.read_text(encoding="utf-8"))
    kept = {key: data[key] for key in ("pipeline_name", "text_type") if key in data}
    scratch.mkdir()
    modules = {}
    for part, onnx in _graphs(pipeline, models):
        folder = part.folder
        if engine == "onnxruntime":
            folder = scratch / part.module.model_name
            folder.mkdir()
            (folder / "inference.onnx").symlink_to(onnx.resolve())
            (folder / "inference.yml").symlink_to((part.folder / "inference.yml").resolve())
        elif model_files(folder).paddle is None:
            return
        module = data["SubModules"][part.section]
        values = {key: value for key, value in module.items() if key not in _ENGINE_KEYS}
        modules[part.section] = {**values, "model_dir": str(folder.resolve())}
    off = {"use_doc_preprocessor": False, "use_textline_orientation": False}
    path = scratch / "paddlex.yaml"
    path.write_text(yaml.safe_dump({**kept, **off, "SubModules": modules}), encoding="utf-8")
    settings = {"yaml": str(path), "engine": engine}
    yield SystemSpec(f"PaddleX, {_TITLES[engine]}", "paddlex", python, settings)


def _paddlex_defaults(pipeline: Path, models: Path, python: Path) -> Iterator[SystemSpec]:
    """PaddleX's own YAML and engine with the pipeline's models, since its default models are only
    on PaddleX's hosts; nothing where these have no Paddle graph."""
    found = [part for part, _ in _graphs(pipeline, models)]
    if any(model_files(part.folder).paddle is None for part in found):
        return
    named = {
        part.section: {
            "model_name": part.module.model_name,
            "model_dir": str(part.folder.resolve()),
        }
        for part in found
    }
    name = f"PaddleX, own defaults, {pipeline.stem}"
    yield SystemSpec(name, "paddlex", python, {"models": named}, "default")


def _rapidocr(pipeline: Path, models: Path, python: Path, scratch: Path, engine: str) -> SystemSpec:
    """RapidOCR on one of its engines, with its default number of threads."""
    params: dict[str, Any] = {"Global.use_cls": False, "Global.log_level": "error"}
    for part, onnx in _graphs(pipeline, models):
        if isinstance(part.model, DetectionModel):
            params |= {"Det.model_path": str(onnx.resolve())} | _detection(part, part.model)
        elif isinstance(part.model, RecognitionModel):
            assert isinstance(part.module, TextRecognition)
            keys = scratch / "characters.txt"
            keys.write_text("\n".join(_characters(part.model)), encoding="utf-8")
            params |= {
                "Rec.model_path": str(onnx.resolve()),
                "Rec.rec_keys_path": str(keys),
                "Rec.rec_batch_num": part.module.batch_size,
                "Global.text_score": part.module.score_thresh,
            }
    settings = {"engine": engine, "parts": ["Det", "Rec"], "params": params}
    return SystemSpec(f"RapidOCR, {_TITLES[engine]}", "rapidocr", python, settings)


def _rapidocr_defaults(python: Path, engine: str) -> SystemSpec:
    """RapidOCR's own models and values, line classifier included; only the engine is chosen."""
    params = {"Global.log_level": "error"}
    settings = {"engine": engine, "parts": ["Det", "Cls", "Rec"], "params": params}
    name = f"RapidOCR, own defaults, {_TITLES[engine]}"
    return SystemSpec(name, "rapidocr", python, settings, "default")


def _turboocr(pipeline: Path, models: Path, python: Path, scratch: Path) -> Iterator[SystemSpec]:
    """TurboOCR's engine; nothing where it does not know the models. It drops lines that score
    below 0.5, whatever the YAML says."""
    scratch.mkdir()
    settings: dict[str, Any] = {"models_dir": str(scratch)}
    for part, onnx in _graphs(pipeline, models):
        if part.module.model_name not in _TURBOOCR_FILES:
            return
        settings["model"], graph, keys = _TURBOOCR_FILES[part.module.model_name]
        (scratch / graph).symlink_to(onnx.resolve())
        if isinstance(part.model, RecognitionModel):
            (scratch / keys).write_text("\n".join(_characters(part.model)), encoding="utf-8")
        else:
            settings["environment"] = _turboocr_detection(part)
    yield SystemSpec("TurboOCR, ONNX Runtime", "turboocr", python, settings)


def _turboocr_detection(part: PipelineModel) -> dict[str, str]:
    limit, db = _detection_values(part)
    return {
        "DET_LIMIT_TYPE": limit.kind,
        "DET_LIMIT_SIDE_LEN": str(limit.side),
        "DET_MAX_SIDE_LIMIT": str(limit.max_side),
        "DET_DB_THRESH": str(db.thresh),
        "DET_BOX_THRESH": str(db.box_thresh),
        "DET_UNCLIP": str(db.unclip_ratio),
    }


def _detection_values(part: PipelineModel) -> tuple[SizeLimit, DbParameters]:
    """The values in force for detection: the YAML's, else the model's."""
    model, module = part.model, part.module
    assert isinstance(model, DetectionModel)
    assert isinstance(module, TextDetection)
    return (
        size_limit(model, module, DEFAULT_OPTIONS),
        db_parameters(model, module, DEFAULT_OPTIONS),
    )


def _detection(part: PipelineModel, model: DetectionModel) -> dict[str, Any]:
    limit, db = _detection_values(part)
    return {
        "Det.limit_side_len": limit.side,
        "Det.limit_type": limit.kind,
        **{f"Det.{key}": value for key, value in asdict(db).items()},
        "Det.mean": list(model.normalisation.mean),
        "Det.std": list(model.normalisation.std),
        "Global.max_side_len": limit.max_side,
    }


def _characters(model: RecognitionModel) -> tuple[str, ...]:
    """The dictionary without the blank and the space, which RapidOCR adds itself."""
    characters = model.characters[1:]
    return characters[:-1] if characters[-1] == " " else characters


def _graphs(pipeline: Path, models: Path) -> Iterator[tuple[PipelineModel, Path]]:
    """Detection and recognition with their plain ONNX files."""
    engines = models / "engines"
    for part in pipeline_models(load_config(pipeline), models):
        if isinstance(part.model, DetectionModel | RecognitionModel):
            if needs_conversion(part.folder, engines):
                raise PlanError(
                    f"{part.folder} is not converted yet; run: bash scripts/build_engines.sh"
                )
            yield part, onnx_graph(part.folder, engines)
