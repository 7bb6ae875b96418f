"""Who takes part: our pipeline, and the peers on the same model files with the same values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from serving.benchmark.contender import Spec
from serving.config.model import DetectionModel, RecognitionModel
from serving.config.options import DEFAULT_OPTIONS
from serving.config.pipeline import TextDetection, TextRecognition, load_config
from serving.convert import needs_conversion, onnx_graph
from serving.errors import PlanError
from serving.parts import Part, parts
from serving.stages.detect import db_parameters, size_limit

_OURS = {"enable_hpi", "use_hpip", "hpi_config", "engine", "engine_config"}
"""Keys that choose an engine: the benchmark chooses PaddleX's."""


def ours(pipeline: Path, models: Path, python: Path) -> Spec:
    """Our own pipeline, line orientation off."""
    settings = {
        "yaml": str(pipeline.resolve()),
        "models": str(models.resolve()),
        "options": {"use_textline_orientation": False},
    }
    return Spec(f"ours {pipeline.stem}", "ours", python, settings)


def paddlex(pipeline: Path, models: Path, python: Path, scratch: Path) -> Spec:
    """PaddleX with its ONNX Runtime engine, at its own default of threads: all cores."""
    data = yaml.safe_load(pipeline.read_text(encoding="utf-8"))
    kept = {key: data[key] for key in ("pipeline_name", "text_type") if key in data}
    modules = {}
    for part, onnx in _graphs(pipeline, models):
        folder = scratch / part.module.model_name
        folder.mkdir()
        (folder / "inference.onnx").symlink_to(onnx.resolve())
        (folder / "inference.yml").symlink_to((part.folder / "inference.yml").resolve())
        said = {k: v for k, v in data["SubModules"][part.section].items() if k not in _OURS}
        modules[part.section] = {**said, "model_dir": str(folder)}
    off = {"use_doc_preprocessor": False, "use_textline_orientation": False}
    path = scratch / "paddlex.yaml"
    path.write_text(yaml.safe_dump({**kept, **off, "SubModules": modules}), encoding="utf-8")
    settings = {"yaml": str(path), "engine": "onnxruntime"}
    return Spec("PaddleX onnxruntime", "paddlex", python, settings)


def rapidocr(pipeline: Path, models: Path, python: Path, scratch: Path, engine: str) -> Spec:
    """RapidOCR with `engine` (onnxruntime or openvino), at its own default of threads."""
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
    settings = {"engine": engine, "params": params}
    return Spec(f"RapidOCR {engine}", "rapidocr", python, settings)


def _detection(part: Part, model: DetectionModel) -> dict[str, Any]:
    """The values in force for detection: the YAML's, or where it has none, the model's."""
    module = part.module
    assert isinstance(module, TextDetection)
    limit = size_limit(model, module, DEFAULT_OPTIONS)
    return {
        "Det.limit_side_len": limit.side,
        "Det.limit_type": limit.kind,
        **{f"Det.{k}": v for k, v in asdict(db_parameters(model, module, DEFAULT_OPTIONS)).items()},
        "Det.mean": list(model.normalisation.mean),
        "Det.std": list(model.normalisation.std),
        "Global.max_side_len": limit.longest,
    }


def _characters(model: RecognitionModel) -> tuple[str, ...]:
    """The dictionary without the blank and the space: RapidOCR adds both."""
    characters = model.characters[1:]
    return characters[:-1] if characters[-1] == " " else characters


def _graphs(pipeline: Path, models: Path) -> Iterator[tuple[Part, Path]]:
    """Detection and recognition with their plain ONNX files."""
    engines = models / "engines"
    for part in parts(load_config(pipeline), models):
        if isinstance(part.model, DetectionModel | RecognitionModel):
            if needs_conversion(part.folder, engines):
                raise PlanError(
                    f"{part.folder} is not converted yet; run: bash scripts/build_engines.sh"
                )
            yield part, onnx_graph(part.folder, engines)
