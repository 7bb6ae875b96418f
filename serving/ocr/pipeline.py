"""The OCR pipeline: from the image of a page to its lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import cv2
import numpy as np

from serving.config.model import (
    DetectionModel,
    OrientationModel,
    PageOrientationModel,
    RecognitionModel,
    UnwarpingModel,
)
from serving.config.options import DEFAULT_OPTIONS, Options, first_set
from serving.config.pipeline import DOC_SECTIONS, Order, PipelineConfig
from serving.engines.base import Engine
from serving.engines.batching import callers
from serving.errors import BadRequest
from serving.imaging.crop import crop
from serving.models.pipeline_models import PipelineModel
from serving.ocr.detect import Detector, as_quad
from serving.ocr.document import (
    PageOrienter,
    Unwarper,
    on_sent_page,
    on_skewed_page,
    reads_upright,
    turn_of_lines,
    turn_upright,
    upright_characters,
)
from serving.ocr.order import by_columns
from serving.ocr.orient import Orienter
from serving.ocr.recognise import Reading, Recogniser
from serving.ocr.scheduler import Scheduler
from serving.ocr.words import word_on_page
from serving.types import Image, Line, Page, QuadArray

_LOG = logging.getLogger(__name__)

_UPRIGHT_SCORE = 0.85
"""A line with at least this score is upright. (6 of 100 upside-down lines score as much.)"""
_DOUBTFUL_SCORE = 0.7
"""A line with a lower score is also read upside down; between the two the classifier decides."""
_MIN_GAIN = 0.05
"""How much higher the upside-down score must be if the classifier says upside down ..."""
_MIN_GAIN_UNCLASSIFIED = 0.1
"""... and if the classifier was not run."""
_MAX_LINES = 256
"""Lines of a page that are cropped and scaled at a time: at most 236 MB."""
_MIN_ASPECT = 1.5
"""Width over height. Shorter lines, of one character, score about the same upside down."""


Stage = PageOrienter | Unwarper | Detector | Orienter | Recogniser


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An OCR pipeline on its engines. Thread-safe; it keeps no state of a request."""

    detector: Detector
    orienter: Orienter | None
    recogniser: Recogniser
    scheduler: Scheduler
    page_orienter: PageOrienter | None = None
    unwarper: Unwarper | None = None
    doubtful_pages_only: bool = False
    """Whether the page orienter sees only pages that hardly read upright."""
    use_textline_orientation: bool = False
    score_thresh: float = 0.0
    return_word_box: bool = False
    order: Order = "paddlex"
    plan: Mapping[str, Any] = field(default_factory=dict)
    """Measurements of these engines, as plain values; empty without a plan."""
    identity: str = ""
    """Identifies the models and engines: equal for equal ones."""
    hot_shapes: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """The inputs (height, width) that most pages will have, by section of the YAML."""

    def read(self, image: Image, options: Options = DEFAULT_OPTIONS) -> Page:
        """Read one page, (H, W, 3) uint8 BGR. Raises EngineError, BadRequest."""
        self.check(options)
        classify, unwarp = self._preprocessing(options)
        if not (classify or unwarp):
            return self._read(image, options)
        start = time.perf_counter()
        if_doubtful = self.doubtful_pages_only and options.use_doc_orientation_classify is None
        angle = self._angle(image) if classify and not if_doubtful else 0
        page = self._read_prepared(image, angle, options, unwarp=unwarp)
        if classify and if_doubtful and not reads_upright(page):
            # The classifier, which sees the centre of the page, misses one turned page in thirty.
            for angle in dict.fromkeys((self._angle(image), turn_of_lines(page))):
                if angle and not reads_upright(page):
                    turned = self._read_prepared(image, angle, options, unwarp=unwarp)
                    page = max(page, turned, key=upright_characters)
        rest = (time.perf_counter() - start) * 1e3 - sum(page.timing.values())
        return replace(page, timing={"prepare": rest, **page.timing})

    def _angle(self, image: Image) -> int:
        assert self.page_orienter is not None
        return self.page_orienter.angle(image)

    def _read_prepared(self, image: Image, angle: int, options: Options, *, unwarp: bool) -> Page:
        """Turn the page back by `angle`, flatten it, read it, and map it to the page as sent."""
        prepared, grid = turn_upright(image, angle), None
        if unwarp:
            assert self.unwarper is not None
            prepared, grid = self.unwarper.flatten(prepared)
        page = self._read(prepared, options)
        return on_sent_page(page, image.shape[1], image.shape[0], angle, grid)

    def _read(self, image: Image, options: Options) -> Page:
        """Read an upright page."""
        start = time.perf_counter()
        found = self.detector.detect(image, options)
        if found.hint:
            _LOG.warning("%s", found.hint)
        detected = time.perf_counter()
        lines = tuple(self._lines(found.image, found.quads, options))
        if first_set(options.order, self.order) == "columns":
            lines = by_columns(lines)
        if found.to_page is not None:
            lines = on_skewed_page(lines, found.to_page, image.shape[1], image.shape[0])
        end = time.perf_counter()
        return Page(
            width=image.shape[1],
            height=image.shape[0],
            lines=lines,
            timing={"detect": (detected - start) * 1e3, "recognise": (end - detected) * 1e3},
            hint=found.hint,
        )

    def warm(self) -> None:
        """Run an input of every hot shape once on every stream. Pages can be read meanwhile.

        The first input of a shape takes an engine many times as long, on each of its streams.
        Raises EngineError.
        """
        engines = {section: self.stages[section].engine for section in self.hot_shapes}
        with ThreadPoolExecutor() as pool:
            futures = [
                pool.submit(_warm, engine, self.hot_shapes[section])
                for section, engine in engines.items()
                if _warms_on_one_thread(engine)
            ]
            for section, engine in engines.items():
                if not _warms_on_one_thread(engine):
                    for size in self.hot_shapes[section]:  # between two, lines take their turn
                        warm = partial(engine.warm, *size)
                        self.scheduler.run_on_every_thread(warm, engine.spec.streams)
            for future in futures:
                future.result()

    def check(self, options: Options) -> None:
        """Raise BadRequest for an option that this pipeline does not support."""
        for key, what, stage in (
            ("use_doc_orientation_classify", "page classifier", self.page_orienter),
            ("use_doc_unwarping", "unwarping model", self.unwarper),
            ("use_textline_orientation", "line classifier", self.orienter),
        ):
            if getattr(options, key) and stage is None:
                raise BadRequest(
                    f"{key}: this pipeline has no {what} loaded; set {key}: True in its YAML"
                )

    def settings(self, options: Options = DEFAULT_OPTIONS) -> dict[str, Any]:
        """The effective settings of a request, under PaddleX's names."""
        return {
            "model_settings": {
                "use_doc_preprocessor": self._preprocesses(options),
                "use_textline_orientation": self._classifies_orientation(options),
            },
            "doc_preprocessor": dict(
                zip(DOC_SECTIONS.values(), self._preprocessing(options), strict=True)
            ),
            "text_det_params": self.detector.settings_in_force(options),
            "text_type": "general",
            "text_rec_score_thresh": first_set(options.text_rec_score_thresh, self.score_thresh),
            "return_word_box": first_set(options.return_word_box, self.return_word_box),
        }

    def to_dict(self) -> dict[str, Any]:
        """Models and their engines, by section of the pipeline YAML."""
        specs = {name: stage.engine.spec for name, stage in self.stages.items()}
        return {
            name: {
                "model": self.stages[name].model.name,
                "engine": {"name": str(spec), **spec.to_dict()},
            }
            for name, spec in specs.items()
        }

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages in use, by section of the pipeline YAML."""
        stages: dict[str, Stage | None] = {
            "DocOrientationClassify": self.page_orienter,
            "DocUnwarping": self.unwarper,
            "TextDetection": self.detector,
            "TextLineOrientation": self.orienter,
            "TextRecognition": self.recogniser,
        }
        return {section: stage for section, stage in stages.items() if stage is not None}

    def close(self) -> None:
        """End the threads and free the engines."""
        self.scheduler.close()
        for stage in self.stages.values():
            stage.engine.close()

    def _preprocesses(self, options: Options) -> bool:
        """As PaddleX: if a request sets one of the two keys, one of them must be True."""
        keys = options.use_doc_orientation_classify, options.use_doc_unwarping
        loaded = self.page_orienter is not None or self.unwarper is not None
        return loaded if keys == (None, None) else True in keys

    def _preprocessing(self, options: Options) -> tuple[bool, bool]:
        """Whether this request's pages are turned upright, and whether they are flattened."""
        if not self._preprocesses(options):
            return False, False
        return (
            first_set(options.use_doc_orientation_classify, self.page_orienter is not None),
            first_set(options.use_doc_unwarping, self.unwarper is not None),
        )

    def _classifies_orientation(self, options: Options) -> bool:
        return first_set(options.use_textline_orientation, self.use_textline_orientation)

    def _lines(self, page: Image, quads: QuadArray, options: Options) -> Iterator[Line]:
        """The lines in these quads, without those below the score threshold."""
        for first in range(0, len(quads), _MAX_LINES):
            yield from self._read_quads(page, quads[first : first + _MAX_LINES], options)

    def _read_quads(self, page: Image, quads: QuadArray, options: Options) -> list[Line]:
        height = self.recogniser.model.height
        cropped = [(quad, *cut) for quad in quads if (cut := crop(page, quad, height))[0].size]
        crops = [line for _, line, _ in cropped]
        words = first_set(options.return_word_box, self.return_word_box)
        readings = self.recognise(crops, words=words)
        flipped = {}
        if self._classifies_orientation(options):
            flipped = self._read_upside_down(crops, readings, words=words)
        min_score = first_set(options.text_rec_score_thresh, self.score_thresh)
        lines = []
        for index, (quad, _, turn) in enumerate(cropped):
            text, score, spans = flipped.get(index, readings[index])
            if not text.strip() or score < min_score:
                continue
            line = Line(text, score, as_quad(quad), turn + 180 if index in flipped else turn)
            if spans:
                line = replace(line, words=tuple(word_on_page(span, line.box) for span in spans))
            lines.append(line)
        return lines

    def recognise(self, crops: Sequence[Image], *, words: bool = False) -> list[Reading]:
        """The text of every line, in order.

        All Python work is done here, on one thread; the scheduler's threads only wait for the
        engine. If they also scaled and decoded, that would take twice as long, and a page 3 %
        longer, because they would compete for the GIL.
        """
        recogniser = self.recogniser
        fitted = [recogniser.fit(line) for line in crops]
        # Longest first, so that no thread ends up with a long line when the others are done.
        order = sorted(range(len(fitted)), key=lambda index: -fitted[index].shape[1])
        lines = [fitted[index] for index in order]
        spec = recogniser.engine.spec
        if spec.dynamic_batching:  # the engine merges the calls of many threads
            results = self.scheduler.map(lambda line: recogniser.run([line])[0], lines)
        else:
            widths = [line.shape[1] for line in lines]
            results = self.scheduler.map_batches(recogniser.run, lines, widths, spec.max_batch)
        outputs = dict(zip(order, results, strict=True))
        return [
            recogniser.decode(outputs[index], line, words=words) for index, line in enumerate(crops)
        ]

    def _read_upside_down(
        self, crops: Sequence[Image], readings: Sequence[Reading], *, words: bool
    ) -> dict[int, Reading]:
        """By index, the lines that are upside down, read the right way up."""
        doubtful = [
            index
            for index, (line, reading) in enumerate(zip(crops, readings, strict=True))
            if reading.score < _UPRIGHT_SCORE and line.shape[1] >= _MIN_ASPECT * line.shape[0]
        ]

        def read(index: int) -> Reading | None:
            return self._upside_down(crops[index], readings[index].score, words=words)

        results = zip(doubtful, self.scheduler.map(read, doubtful), strict=True)
        return {index: reading for index, reading in results if reading is not None}

    def _upside_down(self, line: Image, score: float, *, words: bool) -> Reading | None:
        """The line read upside down if that is clearly right, else None.

        The classifier alone turns upright lines around (2 to 9 points of character F1) and misses
        one upside-down line in ten, so the scores of the two readings decide.
        """
        assert self.orienter is not None
        classify = score >= _DOUBTFUL_SCORE
        if classify and self.orienter.upside_down(line) < 0.5:
            return None
        reading = self.recogniser.read(np.ascontiguousarray(line[::-1, ::-1]), words=words)
        min_gain = _MIN_GAIN if classify else _MIN_GAIN_UNCLASSIFIED
        return reading if reading.score > score + min_gain else None


def assemble(
    config: PipelineConfig,
    models: Mapping[str, PipelineModel],
    engines: Mapping[str, Engine],
    threads: int,
) -> Pipeline:
    """A pipeline from models and open engines, both by section of the YAML.

    threads: concurrent engine calls; more for a dynamic batcher, whose next batch fills while one
    runs. Turns off OpenCV's own threads in this process: on lines they cost more than they gain.
    """
    cv2.setNumThreads(1)
    detection, recognition = models["TextDetection"].model, models["TextRecognition"].model
    assert isinstance(detection, DetectionModel)
    assert isinstance(recognition, RecognitionModel)
    orienter = page_orienter = unwarper = None
    for section, part in models.items():
        if isinstance(part.model, OrientationModel):
            orienter = Orienter(engines[section], part.model)
        elif isinstance(part.model, PageOrientationModel):
            page_orienter = PageOrienter(engines[section], part.model)
        elif isinstance(part.model, UnwarpingModel):
            unwarper = Unwarper(engines[section], part.model)
    sections = config.sub_modules
    return Pipeline(
        detector=Detector(engines["TextDetection"], detection, sections.detection),
        orienter=orienter,
        recogniser=Recogniser(
            engines["TextRecognition"],
            recognition,
            sections.recognition.min_space,
            sections.recognition.ascii_punctuation,
        ),
        scheduler=Scheduler(max(threads, *(callers(engine.spec) for engine in engines.values()))),
        page_orienter=page_orienter,
        unwarper=unwarper,
        doubtful_pages_only=config.doc_preprocessor.doubtful_pages_only,
        use_textline_orientation=config.use_textline_orientation,
        score_thresh=sections.recognition.score_thresh,
        return_word_box=sections.recognition.return_word_box,
        order=config.order,
    )


def _warms_on_one_thread(engine: Engine) -> bool:
    """Whether the engine has one stream, or runs batches on threads of its own."""
    return engine.spec.streams == 1 or engine.spec.dynamic_batching


def _warm(engine: Engine, sizes: Sequence[tuple[int, int]]) -> None:
    for height, width in sizes:
        engine.warm(height, width)
        time.sleep(0.001)  # otherwise a page that waits for the stream would hardly ever get it
