"""Where our own pipeline's time goes, and how near its engines come to the machine's limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.watch import READING, ReplayEngine, Watch, replayed, timed
from benchmarks.work import BACKENDS, PRECISIONS, MacCounter, MatrixProduct
from serving.config.options import Options
from serving.config.pipeline import load_config
from serving.evaluate import LabelledPage
from serving.imaging.decode import Decoder
from serving.imaging.source import load
from serving.models.conversion import onnx_graph
from serving.models.pipeline_models import parts
from serving.ocr.detect import input_size
from serving.ocr.pipeline import Pipeline
from serving.plan.load import find_plan, open_pipeline

_OFF = Options(use_textline_orientation=False)
_ROUNDS = 5
MS_A_MEGAPIXEL, MS_A_LINE = 8.0, 0.1
"""What a page may take of the processor outside engine calls."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of reading, in ms a page (the mean of a set).

    `side_by_side` is thread time: several lines are read at once.
    """

    name: str
    ms: float
    side_by_side: bool = False


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Useful multiply-adds of a model over its engine's time, beside a matrix product.

    Rates in 1e9 multiply-adds a second of one call, with as many calls at once as the stage makes.
    """

    section: str
    engine: str
    gmac_a_page: float
    rate: float
    product_rate: float

    @property
    def share(self) -> float:
        """Of the matrix product's rate."""
        return self.rate / self.product_rate


@dataclass(frozen=True, slots=True)
class Outside:
    """Processor time outside engine calls, decoding the file included, over a set."""

    ms: float
    megapixels: float
    lines: int

    @property
    def allowed_ms(self) -> float:
        """8 ms a megapixel and 0.1 ms a line."""
        return MS_A_MEGAPIXEL * self.megapixels + MS_A_LINE * self.lines

    @property
    def share(self) -> float:
        """Of what is allowed."""
        return self.ms / self.allowed_ms


@dataclass(frozen=True, slots=True)
class Profile:
    """One pipeline on one set of pages, line orientation off."""

    group: str
    pipeline: str
    stages: tuple[Stage, ...]
    efficiency: tuple[Efficiency, ...]
    outside: Outside


def profile(
    yaml: Path,
    pages: Sequence[LabelledPage],
    models: Path,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Profile]:
    """Reads every page some times on replayed engines, then once, timed: its shapes are not new.

    The product of matrices is taken between the pages. Raises what open_pipeline raises.
    """
    groups = dict.fromkeys(page.group for page in pages)
    with ExitStack() as stack:
        pipeline = stack.enter_context(closing(open_pipeline(yaml, models=models)))
        decoder = stack.enter_context(Decoder())
        profiler = _Profiler(yaml, models, pipeline, decoder, stack)
        found = []
        for group in groups:
            members = [page for page in pages if page.group == group]
            profiler.begin()
            for index, page in enumerate(members, 1):
                tell(f"profile of {yaml.stem}: {group}, {index} of {len(members)}")
                profiler.replay(page)
                profiler.read(page)
            found.append(profiler.end(group))
        return found


class _Profiler:
    """Sums over the pages of a set."""

    def __init__(
        self, yaml: Path, models: Path, pipeline: Pipeline, decoder: Decoder, stack: ExitStack
    ) -> None:
        config = load_config(yaml)
        self._name, self._decoder, self._plain = yaml.stem, decoder, pipeline
        self._counters = {
            part.section: MacCounter(onnx_graph(part.folder, models / "engines", convert=False))
            for part in parts(config, models)
        }
        cores = find_plan(config, models, None).cores
        # A lone page has one call to the detector, and lines on as many threads as there are.
        self._products = {
            section: stack.enter_context(
                closing(
                    MatrixProduct(
                        stage.engine.spec,
                        1 if section == "TextDetection" else min(stage.engine.spec.streams, cores),
                    )
                )
            )
            for section, stage in pipeline.stages.items()
            if section != "TextLineOrientation"  # off here
            and stage.engine.spec.backend in BACKENDS
            and stage.engine.spec.precision in PRECISIONS
        }
        self._replayed, self._engines = replayed(pipeline)
        self.begin()

    def begin(self) -> None:
        """A new set."""
        self._watch = Watch()
        self._timed = timed(self._plain, self._watch, self._seen)
        self._met: list[tuple[str, int, int]] = []
        self._pages, self._lines_ms = 0, 0.0
        self._outside_ms, self._megapixels, self._lines = 0.0, 0.0, 0

    def read(self, page: LabelledPage) -> None:
        """One page, timed, once every stream has met its shapes."""
        self._pages += 1
        for product in self._products.values():
            product.sample()
        for loaded in load(page.path, decoder=self._decoder):
            self._plain.read(loaded.image, _OFF)
        with self._watch.time("decode"):
            images = [loaded.image for loaded in load(page.path, decoder=self._decoder)]
        for image in images:
            found = self._timed.read(image, _OFF)
            self._lines_ms += found.timing["recognise"]

    def replay(self, page: LabelledPage) -> None:
        """The same page again, on engines that answer at once: what all else takes."""
        for engine in self._engines:
            engine.forget()
        took = []
        for step in range(_ROUNDS + 1):
            start, inside = time.process_time(), _inside(self._engines)
            pages = [
                (loaded.image, self._replayed.read(loaded.image, _OFF))
                for loaded in load(page.path, decoder=self._decoder)
            ]
            if step:  # the first runs the engines
                took.append(time.process_time() - start - (_inside(self._engines) - inside))
            for engine in self._engines:
                engine.replaying = True
        self._outside_ms += float(np.median(took)) * 1e3
        self._megapixels += sum(image.shape[0] * image.shape[1] for image, _ in pages) / 1e6
        self._lines += sum(len(found.lines) for _, found in pages)

    def end(self, group: str) -> Profile:
        """The set's figures."""
        return Profile(
            group,
            self._name,
            self._stages(),
            tuple(self._efficiency(section) for section in self._products),
            Outside(self._outside_ms, self._megapixels, self._lines),
        )

    def _seen(self, section: str, image: Any) -> None:
        """Note the model's own height and width for a page or a line, before it is padded."""
        height, width = image.shape[:2]
        if section == "TextDetection":
            detector = self._plain.detector
            height, width = input_size(detector.model, detector.settings, height, width, _OFF)
        elif section == "TextRecognition":
            recogniser = self._plain.recogniser
            height, width = recogniser.model.height, recogniser.own_width(image)
        self._met.append((section, height, width))

    def _macs(self, section: str) -> float:
        """Multiply-adds that the pages and lines met need, padding not counted."""
        counter = self._counters[section]
        count = counter.macs if section == "TextDetection" else counter.macs_at_width
        return sum(count(height, width) for met, height, width in self._met if met == section)

    def _stages(self) -> tuple[Stage, ...]:
        spent = {name: 1e3 * s / self._pages for name, s in self._watch.seconds.items()}
        detect, detect_engine = spent["TextDetection"], spent["TextDetection engine"]
        reading, lines = spent.get(READING, 0.0), self._lines_ms / self._pages
        return (
            Stage("decode", spent["decode"]),
            Stage("detect: engine", detect_engine),
            Stage("detect: resize, boxes", detect - detect_engine),
            Stage("lines: crop, resize, CTC", lines - reading),
            Stage("lines: engine", reading),
            Stage("line: engine", spent.get("TextRecognition engine", 0.0), side_by_side=True),
        )

    def _efficiency(self, section: str) -> Efficiency:
        seconds = self._watch.seconds.get(f"{section} engine", 0.0)
        macs = self._macs(section)
        return Efficiency(
            section,
            str(self._plain.stages[section].engine.spec),
            macs / self._pages / 1e9,
            macs / seconds / 1e9 if seconds else 0.0,
            self._products[section].rate / 1e9,
        )


def _inside(engines: Sequence[ReplayEngine]) -> float:
    return sum(engine.seconds for engine in engines)
