"""Image to page. Knows engines and stages; no YAML, no HTTP, no vendor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.config.options import DEFAULT_OPTIONS, Options, first_set
from serving.engines.base import Engine
from serving.engines.observed import observed
from serving.errors import BadRequest
from serving.imaging.crop import crop
from serving.ocr.db import Quads
from serving.ocr.detect import Detector, corners
from serving.ocr.orient import Orienter
from serving.ocr.recognise import Recognised, Recogniser
from serving.ocr.scheduler import Scheduler
from serving.ocr.words import place as place_word
from serving.types import Line, Page

Image = npt.NDArray[np.uint8]

_SURE = 0.85
"""A line read with this score or more is upright. (6 of 100 turned lines are read so surely.)"""
_DOUBTFUL = 0.7
"""A line read with less is read upside down too; the classifier is asked of those between."""
_GAIN = 0.05
"""By how much the upside-down reading must be surer where the classifier is for it ..."""
_CLEAR_GAIN = 0.1
"""... and where nobody asked it."""
_AT_ONCE = 256
"""Lines of a page that are cut out and scaled before they are read: at most 236 MB of a page."""
_ONE_CHARACTER = 1.5
"""Width over height; a shorter line is read as well, or as badly, on its head."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One OCR pipeline on its engines. Safe under many threads; holds nothing of a request."""

    detector: Detector
    orienter: Orienter | None
    recogniser: Recogniser
    pool: Scheduler
    use_textline_orientation: bool = False
    score_thresh: float = 0.0
    return_word_box: bool = False
    plan: Mapping[str, Any] = field(default_factory=dict)
    """What was measured of these engines, as plain values; empty where nothing was."""
    identity: str = ""
    """Tells which models and engines these are."""

    def read(self, image: Image, options: Options = DEFAULT_OPTIONS) -> Page:
        """Read one upright page, (H, W, 3) uint8 BGR. Raises EngineError, BadRequest."""
        self._check(options)
        start = time.perf_counter()
        quads = self.detector.find(image, options)
        found = time.perf_counter()
        lines = tuple(self._lines(image, quads, options))
        end = time.perf_counter()
        return Page(
            width=image.shape[1],
            height=image.shape[0],
            lines=lines,
            timing={"detect": (found - start) * 1e3, "recognise": (end - found) * 1e3},
        )

    def warm(self, shapes: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        """Run inputs of these (height, width) once, by section of the YAML, on every stream.

        The first input of a shape costs an engine many times the next one, on each of its streams.
        """
        engines = {section: self.stages[section].engine for section in shapes}
        with ThreadPoolExecutor() as pool:
            begun = [
                pool.submit(_run_blank, engine, shapes[section])
                for section, engine in engines.items()
                if _is_one_caller(engine)
            ]
            for section, engine in engines.items():
                if not _is_one_caller(engine):
                    run = partial(_run_blank, engine, shapes[section])
                    self.pool.run_on_every_thread(run, engine.spec.streams)
            for future in begun:
                future.result()

    def observed(self, tell: Callable[[str, int], None]) -> Pipeline:
        """The same pipeline, which takes this one's place and tells of calls that take lines.

        tell: the section of the YAML and how many lines are in the call; from any thread.
        """
        orienter, recogniser = self.orienter, self.recogniser
        if orienter is not None:
            engine = observed(orienter.engine, partial(tell, "TextLineOrientation"))
            orienter = replace(orienter, engine=engine)
        engine = observed(recogniser.engine, partial(tell, "TextRecognition"))
        return replace(self, orienter=orienter, recogniser=replace(recogniser, engine=engine))

    def settings(self, options: Options = DEFAULT_OPTIONS) -> dict[str, Any]:
        """What is in force for a request, in PaddleX's own words."""
        return {
            "model_settings": {
                "use_doc_preprocessor": False,
                "use_textline_orientation": self._orients(options),
            },
            "text_det_params": self.detector.settings_in_force(options),
            "text_type": "general",
            "text_rec_score_thresh": first_set(options.text_rec_score_thresh, self.score_thresh),
            "return_word_box": first_set(options.return_word_box, self.return_word_box),
        }

    def to_dict(self) -> dict[str, Any]:
        """Models and engines in force, by module of the pipeline YAML."""
        return {
            name: {"model": stage.model.name, "engine": stage.engine.spec.to_dict()}
            for name, stage in self.stages.items()
        }

    @property
    def stages(self) -> dict[str, Detector | Orienter | Recogniser]:
        """The stages in use, by section of the pipeline YAML."""
        stages = {
            "TextDetection": self.detector,
            "TextLineOrientation": self.orienter,
            "TextRecognition": self.recogniser,
        }
        return {section: stage for section, stage in stages.items() if stage is not None}

    def _lines(self, page: Image, quads: Quads, options: Options) -> Iterator[Line]:
        """The lines in these quads whose text is sure enough."""
        for first in range(0, len(quads), _AT_ONCE):
            yield from self._some_lines(page, quads[first : first + _AT_ONCE], options)

    def _some_lines(self, page: Image, quads: Quads, options: Options) -> list[Line]:
        height = self.recogniser.model.height
        crops = [(quad, *cut) for quad in quads if (cut := crop(page, quad, height))[0].size]
        pictures = [picture for _, picture, _ in crops]
        wants_words = first_set(options.return_word_box, self.return_word_box)
        readings = self._read(pictures, words=wants_words)
        turned = {}
        if self._orients(options):
            turned = self._read_turned(pictures, readings, words=wants_words)
        least = first_set(options.text_rec_score_thresh, self.score_thresh)
        lines = []
        for place, (quad, _, turn) in enumerate(crops):
            text, score, words = turned.get(place, readings[place])
            if not text or score < least:
                continue
            line = Line(text, score, corners(quad), turn + 180 if place in turned else turn)
            if words:
                line = replace(line, words=tuple(place_word(word, line.box) for word in words))
            lines.append(line)
        return lines

    def _read(self, pictures: Sequence[Image], *, words: bool) -> list[Recognised]:
        """Every line's text, in order.

        All that Python does for them is done here, in one thread. The pool's only wait for the
        engine: if they also scaled and decoded, they would take twice the time for it, and a page
        3 % more, because they wait for the interpreter's lock in turn.
        """
        reader = self.recogniser
        fitted = [reader.fit(picture) for picture in pictures]
        # Longest first, so that no thread is left with a long line when the others are done.
        order = sorted(range(len(fitted)), key=lambda place: -fitted[place].shape[1])
        lines = [fitted[place] for place in order]
        spec = reader.engine.spec
        if spec.dynamic_batching:  # one call takes lines of one width from many threads
            answers = self.pool.map(lambda line: reader.run([line])[0], lines)
        else:
            widths = [line.shape[1] for line in lines]
            answers = self.pool.map_batches(reader.run, lines, widths, spec.max_batch)
        outputs = dict(zip(order, answers, strict=True))
        return [
            reader.decode(outputs[place], picture, words=words)
            for place, picture in enumerate(pictures)
        ]

    def _check(self, options: Options) -> None:
        """Raise BadRequest for an option that this pipeline cannot obey."""
        if options.use_textline_orientation and self.orienter is None:
            raise BadRequest(
                "use_textline_orientation: this pipeline has no line classifier loaded; "
                "set use_textline_orientation: True in its YAML"
            )

    def _orients(self, options: Options) -> bool:
        return first_set(options.use_textline_orientation, self.use_textline_orientation)

    def _read_turned(
        self, pictures: Sequence[Image], readings: Sequence[Recognised], *, words: bool
    ) -> dict[int, Recognised]:
        """By place, the lines that stand on their heads, read the right way up."""
        doubted = [
            place
            for place, (picture, reading) in enumerate(zip(pictures, readings, strict=True))
            if reading.score < _SURE and _tells_its_top(picture)
        ]

        def read(place: int) -> Recognised | None:
            return self._turned(pictures[place], readings[place].score, words=words)

        turned = zip(doubted, self.pool.map(read, doubted), strict=True)
        return {place: reading for place, reading in turned if reading is not None}

    def _turned(self, picture: Image, score: float, *, words: bool) -> Recognised | None:
        """The line read upside down, where that is surely the right way; else None.

        The classifier alone turns upright lines (it costs 2 to 9 points of character F1) and
        misses one turned line in ten, so the readings' own scores decide.
        """
        assert self.orienter is not None
        doubtful = score < _DOUBTFUL
        if not doubtful and self.orienter.turned(picture) < 0.5:
            return None
        turned = self.recogniser.read(np.ascontiguousarray(picture[::-1, ::-1]), words=words)
        gain = _CLEAR_GAIN if doubtful else _GAIN
        return turned if turned.score > score + gain else None

    def close(self) -> None:
        """End the threads and free the engines."""
        self.pool.close()
        for stage in self.stages.values():
            stage.engine.close()


def _is_one_caller(engine: Engine) -> bool:
    """Whether calls do not run side by side, or are made by threads of the engine's own."""
    return engine.spec.streams == 1 or engine.spec.dynamic_batching


def _run_blank(engine: Engine, sizes: Sequence[tuple[int, int]]) -> None:
    for height, width in sizes:
        engine.warm(height, width)


def _tells_its_top(picture: Image) -> bool:
    height, width = picture.shape[:2]
    return bool(width >= _ONE_CHARACTER * height)
