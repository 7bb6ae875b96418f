"""A model's stage on a candidate engine: its workload and its answers on the calibration set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from serving.config.gate import Gate
from serving.config.model import DetectionModel, OrientationModel, RecognitionModel
from serving.config.options import DEFAULT_OPTIONS
from serving.config.pipeline import TextDetection, TextRecognition
from serving.engines.base import Engine
from serving.engines.batching import callers
from serving.imaging.resize import pad_tiny
from serving.models.pipeline_models import PipelineModel
from serving.ocr.detect import Detector, as_quad
from serving.ocr.orient import Orienter
from serving.ocr.recognise import Recogniser
from serving.ocr.scheduler import Scheduler
from serving.plan.calibration import Calibration
from serving.plan.gate import Verdict, judge_detection, judge_orientation, judge_recognition
from serving.types import Image

_PAGES = 4
"""Pages of the detection workload."""
_LINES = 24
"""Lines of the recognition workload, evenly spread over the widths of the calibration set."""


class Bench(ABC):
    """How one kind of model is timed and judged."""

    def __init__(self, engine: Engine, calibration: Calibration) -> None:
        self.engine = engine
        self.calibration = calibration
        self.pool = Scheduler(callers(engine.spec), name="bench")

    @abstractmethod
    def warm(self) -> None:
        """Run every shape of the workload once on every stream."""

    @abstractmethod
    def work(self) -> None:
        """The timed workload, with as many callers as the engine has streams."""

    @abstractmethod
    def answers(self) -> list[Any]:
        """What the engine makes of the whole calibration set."""

    @abstractmethod
    def inputs(self) -> list[Image]:
        """What the model is fed on the whole calibration set: uint8 (H, W, 3) each."""

    @staticmethod
    @abstractmethod
    def judge(
        gate: Gate, calibration: Calibration, reference: list[Any], found: list[Any]
    ) -> Verdict:
        """Hold answers against the reference's."""

    def close(self) -> None:
        """Free the engine and the threads."""
        self.pool.close()
        self.engine.close()


class DetectionBench(Bench):
    """Pages; answers are boxes."""

    def __init__(self, part: PipelineModel, engine: Engine, calibration: Calibration) -> None:
        super().__init__(engine, calibration)
        assert isinstance(part.model, DetectionModel)
        assert isinstance(part.module, TextDetection)
        self._stage = Detector(engine, part.model, part.module)

        self._pages = spread((*calibration.own_pages, *calibration.pages), _PAGES)
        self._all_pages = (*calibration.pages, *calibration.own_pages)

    def warm(self) -> None:
        shapes = {page.shape: page for page in self._pages}
        self.pool.run_on_every_thread(lambda: [self._find(page) for page in shapes.values()])

    def work(self) -> None:
        self.pool.map(self._find, self._pages)

    def answers(self) -> list[Any]:
        return self.pool.map(self._find, self._all_pages)

    def inputs(self) -> list[Image]:
        fit = self._stage.fit
        return [fit(pad_tiny(page), DEFAULT_OPTIONS)[0] for page in self._all_pages]

    def _find(self, page: Image) -> list[Any]:
        return [as_quad(quad) for quad in self._stage.detect(page, DEFAULT_OPTIONS)]

    @staticmethod
    def judge(
        gate: Gate, calibration: Calibration, reference: list[Any], found: list[Any]
    ) -> Verdict:
        return judge_detection(gate, reference, found)


class RecognitionBench(Bench):
    """Line crops; answers are texts."""

    def __init__(self, part: PipelineModel, engine: Engine, calibration: Calibration) -> None:
        super().__init__(engine, calibration)
        assert isinstance(part.model, RecognitionModel)
        assert isinstance(part.module, TextRecognition)
        self._stage = Recogniser(engine, part.model, part.module.restore_spaces)

        by_width = sorted(calibration.crops, key=lambda crop: crop.shape[1] / crop.shape[0])
        self._lines = spread(by_width, _LINES)

    def warm(self) -> None:
        shapes = {self._stage.fit(line).shape: line for line in self._lines}
        self.pool.run_on_every_thread(lambda: [self._stage.read(line) for line in shapes.values()])

    def work(self) -> None:
        self.pool.map(self._stage.read, self._lines)

    def answers(self) -> list[Any]:
        return [read.text for read in self.pool.map(self._stage.read, self.calibration.crops)]

    def inputs(self) -> list[Image]:
        return [self._stage.fit(crop) for crop in self.calibration.crops]

    @staticmethod
    def judge(
        gate: Gate, calibration: Calibration, reference: list[Any], found: list[Any]
    ) -> Verdict:
        return judge_recognition(gate, calibration.texts, reference, found)


class OrientationBench(Bench):
    """Line crops, every second one upside down; answers are whether each is turned."""

    def __init__(self, part: PipelineModel, engine: Engine, calibration: Calibration) -> None:
        super().__init__(engine, calibration)
        assert isinstance(part.model, OrientationModel)
        self._stage = Orienter(engine, part.model)
        self._crops = [
            crop[::-1, ::-1].copy() if place % 2 else crop
            for place, crop in enumerate(calibration.crops)
        ]

    def warm(self) -> None:
        self.pool.run_on_every_thread(lambda: self._stage.upside_down(self._crops[0]))

    def work(self) -> None:
        self.pool.map(self._stage.upside_down, spread(self._crops, _LINES))

    def answers(self) -> list[Any]:
        return [turned >= 0.5 for turned in self.pool.map(self._stage.upside_down, self._crops)]

    def inputs(self) -> list[Image]:
        return [self._stage.fit(crop) for crop in self._crops]

    @staticmethod
    def judge(
        gate: Gate, calibration: Calibration, reference: list[Any], found: list[Any]
    ) -> Verdict:
        return judge_orientation(gate, reference, found)


BENCHES: dict[str, type[DetectionBench | OrientationBench | RecognitionBench]] = {
    "TextDetection": DetectionBench,
    "TextLineOrientation": OrientationBench,
    "TextRecognition": RecognitionBench,
}


def spread(items: Sequence[Image], count: int) -> list[Image]:
    """`count` items, evenly spaced over the sequence."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]
