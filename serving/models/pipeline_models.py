"""The models of a pipeline, and a pipeline from these models on engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2

from serving.config.model import (
    DetectionModel,
    Model,
    OrientationModel,
    RecognitionModel,
    load_model,
)
from serving.config.pipeline import Module, PipelineConfig
from serving.engines.base import Engine
from serving.engines.batching import callers
from serving.models.store import Store
from serving.ocr.detect import Detector
from serving.ocr.orient import Orienter
from serving.ocr.pipeline import Pipeline
from serving.ocr.recognise import Recogniser
from serving.ocr.scheduler import Scheduler

KINDS = {
    "TextDetection": "text_detection",
    "TextLineOrientation": "textline_orientation",
    "TextRecognition": "text_recognition",
}
"""Section of the YAML -> PaddleX's name for that kind of model."""


@dataclass(frozen=True, slots=True)
class PipelineModel:
    """One model of a pipeline."""

    section: str
    """Its section of the YAML, for example TextDetection."""
    module: Module
    """What the YAML says of it."""
    folder: Path
    model: Model
    """What its own inference.yml says."""


def parts(config: PipelineConfig, models: Path) -> Iterator[PipelineModel]:
    """The models in use, read from their folders. Raises ModelMissing, ModelInvalid."""
    store = Store(models)
    sections = config.sub_modules
    modules: dict[str, Module | None] = {
        "TextDetection": sections.detection,
        "TextLineOrientation": sections.orientation if config.use_textline_orientation else None,
        "TextRecognition": sections.recognition,
    }
    for section, module in modules.items():
        if module is not None:
            folder = module.model_dir or store.folder(module.model_name)
            model = load_model(folder, module.model_name, KINDS[section])
            yield PipelineModel(section, module, folder, model)


def assemble(
    config: PipelineConfig,
    found: Mapping[str, PipelineModel],
    engines: Mapping[str, Engine],
    threads: int,
) -> Pipeline:
    """A pipeline from parts and engines by section; `threads` lines are read side by side.

    Or more, where an engine takes many in one call: as many as fill the next one meanwhile.
    From now on OpenCV starts no threads in this process: on lines they cost more than they do.
    """
    cv2.setNumThreads(1)
    detection, recognition = found["TextDetection"].model, found["TextRecognition"].model
    assert isinstance(detection, DetectionModel)
    assert isinstance(recognition, RecognitionModel)
    orienter = None
    if "TextLineOrientation" in found:
        orientation = found["TextLineOrientation"].model
        assert isinstance(orientation, OrientationModel)
        orienter = Orienter(engines["TextLineOrientation"], orientation)
    sections = config.sub_modules
    return Pipeline(
        detector=Detector(engines["TextDetection"], detection, sections.detection),
        orienter=orienter,
        recogniser=Recogniser(
            engines["TextRecognition"], recognition, sections.recognition.restore_spaces
        ),
        pool=Scheduler(max(threads, *(callers(engine.spec) for engine in engines.values()))),
        use_textline_orientation=config.use_textline_orientation,
        score_thresh=sections.recognition.score_thresh,
        return_word_box=sections.recognition.return_word_box,
    )
