"""Who takes part: our pipeline, and the peers with the same files and values and as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from benchmarks.contender import Spec
from serving.config.model import DetectionModel, RecognitionModel
from serving.config.options import DEFAULT_OPTIONS
from serving.config.pipeline import TextDetection, TextRecognition, load_config
from serving.errors import PlanError
from serving.models.conversion import needs_conversion, onnx_graph
from serving.models.files import model_files
from serving.models.pipeline_models import PipelineModel, parts
from serving.ocr.detect import db_parameters, size_limit

_OURS = {"enable_hpi", "use_hpip", "hpi_config", "engine", "engine_config"}
"""Keys that choose an engine: the benchmark chooses PaddleX's."""
_TITLES = {
    "paddle_static": "Paddle Inference",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}


def ours(pipeline: Path, models: Path, python: Path) -> Spec:
    """Our own pipeline, line orientation off."""
    return Spec(
        f"ours, {pipeline.stem}",
        "ours",
        python,
        _ours(pipeline, models, {"use_textline_orientation": False}),
    )


def peers(
    pipeline: Path, models: Path, paddlex: Path | None, rapidocr: Path | None, scratch: Path
) -> list[Spec]:
    """PaddleX and RapidOCR by these Pythons: with the pipeline's files and values, then as they
    come, ours with them. scratch: an empty folder that lives as long as they run.
    """
    same: list[Spec] = []
    own: list[Spec] = []
    if paddlex is not None:
        for engine in ("paddle_static", "onnxruntime"):
            same += paddlex_on(pipeline, models, paddlex, scratch / engine, engine)
        own += _paddlex_as_it_comes(pipeline, models, paddlex)
    if rapidocr is not None:
        for engine in ("onnxruntime", "openvino"):
            same.append(_rapidocr(pipeline, models, rapidocr, scratch, engine))
            own.append(_rapidocr_as_it_comes(rapidocr, engine))
    if own:
        settings = _ours(pipeline, models, {})
        own.insert(0, Spec("ours, as the YAML says", "ours", Path(sys.executable), settings, "own"))
    return same + own


def _ours(pipeline: Path, models: Path, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "yaml": str(pipeline.resolve()),
        "models": str(models.resolve()),
        "options": options,
    }


def paddlex_on(
    pipeline: Path, models: Path, python: Path, scratch: Path, engine: str
) -> Iterator[Spec]:
    """PaddleX on one of its engines, at its own default of threads; nothing for Paddle's engine
    where a model has no Paddle graph."""
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
        said = {k: v for k, v in data["SubModules"][part.section].items() if k not in _OURS}
        modules[part.section] = {**said, "model_dir": str(folder.resolve())}
    off = {"use_doc_preprocessor": False, "use_textline_orientation": False}
    path = scratch / "paddlex.yaml"
    path.write_text(yaml.safe_dump({**kept, **off, "SubModules": modules}), encoding="utf-8")
    yield Spec(
        f"PaddleX, {_TITLES[engine]}", "paddlex", python, {"yaml": str(path), "engine": engine}
    )


def _paddlex_as_it_comes(pipeline: Path, models: Path, python: Path) -> Iterator[Spec]:
    """PaddleX's own YAML and engine. Its default models are on hosts of its own alone, so it gets
    the pipeline's; nothing where these have no Paddle graph."""
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
    settings = {"models": named}
    yield Spec(f"PaddleX, own values, {pipeline.stem}", "paddlex", python, settings, "own")


def _rapidocr(pipeline: Path, models: Path, python: Path, scratch: Path, engine: str) -> Spec:
    """RapidOCR on one of its engines, at its own default of threads."""
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
    return Spec(f"RapidOCR, {_TITLES[engine]}", "rapidocr", python, settings)


def _rapidocr_as_it_comes(python: Path, engine: str) -> Spec:
    """RapidOCR's own models and values, line classifier included; only the engine is chosen."""
    params = {"Global.log_level": "error"}
    settings = {"engine": engine, "parts": ["Det", "Cls", "Rec"], "params": params}
    return Spec(f"RapidOCR, own models, {_TITLES[engine]}", "rapidocr", python, settings, "own")


def _detection(part: PipelineModel, model: DetectionModel) -> dict[str, Any]:
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


def _graphs(pipeline: Path, models: Path) -> Iterator[tuple[PipelineModel, Path]]:
    """Detection and recognition with their plain ONNX files."""
    engines = models / "engines"
    for part in parts(load_config(pipeline), models):
        if isinstance(part.model, DetectionModel | RecognitionModel):
            if needs_conversion(part.folder, engines):
                raise PlanError(
                    f"{part.folder} is not converted yet; run: bash scripts/build_engines.sh"
                )
            yield part, onnx_graph(part.folder, engines)
