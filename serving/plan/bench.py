"""One model's stage on a candidate engine: the workload to time and the answers to judge."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.config.gate import Gate
from serving.config.model import (
    DetectionModel,
    OrientationModel,
    PageOrientationModel,
    RecognitionModel,
    UnwarpingModel,
)
from serving.config.options import DEFAULT_OPTIONS, Options
from serving.config.pipeline import TextDetection, TextRecognition
from serving.engines.base import Engine, EngineSpec
from serving.engines.batching import callers
from serving.engines.factory import open_fused
from serving.imaging.resize import pad_tiny
from serving.models.pipeline_models import PipelineModel
from serving.ocr.detect import Detector, as_quad
from serving.ocr.document import PageOrienter, Unwarper
from serving.ocr.orient import Orienter
from serving.ocr.recognise import Recogniser
from serving.ocr.scheduler import Scheduler
from serving.plan.calibration import Calibration, calibration_set
from serving.plan.gate import (
    Verdict,
    judge_detection,
    judge_orientation,
    judge_recognition,
    judge_unwarping,
)
from serving.types import Image, Quad

_AS_IS = Options(text_det_deskew=False)
"""Quads are compared in pixels of the page."""
_PAGES = 4
"""Pages of the detection workload."""
_LINES = 24
"""Lines of the recognition workload, evenly spread over the widths of the calibration set."""

_SAMPLES = 64
"""Lines or pages that give the ranges of int8."""


class Bench(ABC):
    """How one kind of model is timed and judged."""

    def __init__(self, engine: Engine, workload: Sequence[Image], images: Sequence[Image]) -> None:
        """workload: what is timed. images: what is judged. All (H, W, 3), uint8."""
        self.engine = engine
        self._workload, self._images = workload, images
        self._pool = Scheduler(callers(engine.spec), name="bench")

    def warm(self) -> None:
        """Run every shape of the workload once on every stream."""
        shapes = {self.fit(image).shape: image for image in self._workload}
        self._pool.run_on_every_thread(lambda: [self.read(image) for image in shapes.values()])

    def work(self) -> None:
        """The timed workload, with as many callers as keep the engine busy."""
        self._pool.map(self.read, self._workload)

    def answers(self) -> list[Any]:
        """The answers on the whole calibration set."""
        return self._pool.map(self.read, self._images)

    def samples(self) -> list[Image]:
        """The model's inputs for part of the calibration set."""
        return [self.fit(image) for image in spread(self._images, _SAMPLES)]

    def fit_as(self, spec: EngineSpec) -> None:  # noqa: B027  (most fit images alike for all)
        """Fit images as for an engine of that spec from now on."""

    def close(self) -> None:
        """Free the engine and the threads."""
        self._pool.close()
        self.engine.close()

    @abstractmethod
    def fit(self, image: Image) -> Image:
        """The model's input for an image."""

    @abstractmethod
    def read(self, image: Image) -> Any:
        """The stage's answer on an image."""

    @abstractmethod
    def judge(self, gate: Gate, reference: list[Any], answers: list[Any]) -> Verdict:
        """Compare answers with the reference's."""


class DetectionBench(Bench):
    """Pages; answers are boxes."""

    def __init__(self, part: PipelineModel, engine: Engine, calibration: Calibration) -> None:
        own, pages = calibration.own_pages, calibration.pages
        super().__init__(engine, spread((*own, *pages), _PAGES), (*pages, *own))
        assert isinstance(part.model, DetectionModel)
        assert isinstance(part.module, TextDetection)
        self._stage = Detector(engine, part.model, part.module)

    def fit(self, image: Image) -> Image:
        return self._stage.fit(pad_tiny(image), DEFAULT_OPTIONS)[0]

    def read(self, image: Image) -> list[Quad]:
        return [as_quad(quad) for quad in self._stage.detect(image, _AS_IS).quads]

    def judge(self, gate: Gate, reference: list[Any], answers: list[Any]) -> Verdict:
        return judge_detection(gate, reference, answers)


class RecognitionBench(Bench):
    """Line crops; answers are texts."""

    def __init__(self, part: PipelineModel, engine: Engine, calibration: Calibration) -> None:
        by_width = sorted(calibration.crops, key=lambda crop: crop.shape[1] / crop.shape[0])
        super().__init__(engine, spread(by_width, _LINES), calibration.crops)
        assert isinstance(part.model, RecognitionModel)
        assert isinstance(part.module, TextRecognition)
        self._stage = Recogniser(engine, part.model, part.module.min_space)
        self._texts = calibration.texts

    def fit_as(self, spec: EngineSpec) -> None:
        self._stage = replace(self._stage, padded_for=spec)

    def fit(self, image: Image) -> Image:
        return self._stage.fit(image)

    def read(self, image: Image) -> str:
        return self._stage.read(image).text

    def judge(self, gate: Gate, reference: list[Any], answers: list[Any]) -> Verdict:
        return judge_recognition(gate, self._texts, reference, answers)


class OrientationBench(Bench):
    """Line crops, every second one upside down; answers are whether each is upside down."""

    def __init__(self, part: PipelineModel, engine: Engine, calibration: Calibration) -> None:
        crops = [
            crop[::-1, ::-1].copy() if index % 2 else crop
            for index, crop in enumerate(calibration.crops)
        ]
        super().__init__(engine, spread(crops, _LINES), crops)
        assert isinstance(part.model, OrientationModel)
        self._stage = Orienter(engine, part.model)

    def fit(self, image: Image) -> Image:
        return self._stage.fit(image)

    def read(self, image: Image) -> bool:
        return self._stage.upside_down(image) >= 0.5

    def judge(self, gate: Gate, reference: list[Any], answers: list[Any]) -> Verdict:
        return judge_orientation(gate, reference, answers)


class PageOrientationBench(Bench):
    """Pages, one after the other turned by 0, 90, 180 and 270 degrees; answers are the angles."""

    def __init__(self, part: PipelineModel, engine: Engine, calibration: Calibration) -> None:
        pages = [
            np.rot90(page, turns)  # a view: the engines of a heat are open side by side
            for page in (*calibration.own_pages, *calibration.pages)
            for turns in range(4)
        ]
        super().__init__(engine, spread(pages, _PAGES), pages)
        assert isinstance(part.model, PageOrientationModel)
        self._stage = PageOrienter(engine, part.model)

    def fit(self, image: Image) -> Image:
        return self._stage.fit(image)

    def read(self, image: Image) -> int:
        return self._stage.angle(image)

    def judge(self, gate: Gate, reference: list[Any], answers: list[Any]) -> Verdict:
        return judge_orientation(gate, reference, answers)


class UnwarpingBench(Bench):
    """Pages; answers are flattened pages."""

    def __init__(self, part: PipelineModel, engine: Engine, calibration: Calibration) -> None:
        pages = spread((*calibration.own_pages, *calibration.pages), _PAGES)
        super().__init__(engine, pages, pages)
        assert isinstance(part.model, UnwarpingModel)
        self._stage = Unwarper(engine, part.model)

    def fit(self, image: Image) -> Image:
        return image

    def read(self, image: Image) -> Image:
        return self._stage.flatten(image)[0]

    def judge(self, gate: Gate, reference: list[Any], answers: list[Any]) -> Verdict:
        return judge_unwarping(gate, reference, answers)


BENCHES: dict[str, Callable[[PipelineModel, Engine, Calibration], Bench]] = {
    "DocOrientationClassify": PageOrientationBench,
    "DocUnwarping": UnwarpingBench,
    "TextDetection": DetectionBench,
    "TextLineOrientation": OrientationBench,
    "TextRecognition": RecognitionBench,
}


def sample_inputs(part: PipelineModel, fused: Path, spec: EngineSpec) -> list[Image]:
    """A model's inputs of part of the shipped calibration set, as an engine of `spec` gets them.

    By the default settings: what is made from them serves every pipeline that has the model.
    """
    part = replace(part, module=type(part.module)(model_name=part.module.model_name))
    engine = open_fused(fused, EngineSpec("onnxruntime"), part.model)
    with closing(BENCHES[part.section](part, engine, calibration_set())) as bench:
        bench.fit_as(spec)
        return bench.samples()


def spread(items: Sequence[Image], count: int) -> list[Image]:
    """`count` items, evenly spaced over the sequence."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]
