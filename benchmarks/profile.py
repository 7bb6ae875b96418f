"""Where our own pipeline spends its time, and how close its engines come to the machine's limit.

Engines, stages and the scheduler of a pipeline are replaced by ones that time each call.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.roofline import BACKENDS, PRECISIONS, MacCounter, MatrixProduct
from serving.config.options import Options
from serving.config.pipeline import load_config
from serving.engines.base import Array, Engine
from serving.errors import EngineError
from serving.evaluate.labels import LabelledPage
from serving.imaging.decode import Decoder
from serving.imaging.source import load
from serving.models.conversion import onnx_graph
from serving.models.pipeline_models import pipeline_models
from serving.ocr.detect import Detector, input_size
from serving.ocr.document import PageOrienter, Unwarper
from serving.ocr.orient import Orienter
from serving.ocr.pipeline import Pipeline
from serving.ocr.recognise import Recogniser
from serving.ocr.scheduler import Scheduler
from serving.plan.load import open_pipeline
from serving.plan.plan import find_plan

_OPTIONS = Options(use_doc_orientation_classify=False, use_textline_orientation=False)
_ROUNDS = 5
_MS_PER_MEGAPIXEL, _MS_PER_LINE = 8.0, 0.1
"""The budget of processor time outside engine calls."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of reading, in ms a page (the mean of a dataset)."""

    name: str
    ms: float


@dataclass(frozen=True, slots=True)
class Efficiency:
    """Useful multiply-adds of a model over its engine's time, beside a matrix product.

    Rates in 1e9 multiply-adds a second of one call, with as many calls at once as the stage makes.
    """

    section: str
    engine: str
    gmac_per_page: float
    rate: float
    product_rate: float

    @property
    def share(self) -> float:
        """Of the matrix product's rate."""
        return self.rate / self.product_rate


@dataclass(frozen=True, slots=True)
class Overhead:
    """Processor time outside engine calls, decoding the file included, over a dataset."""

    ms: float
    megapixels: float
    lines: int

    @property
    def budget_ms(self) -> float:
        """8 ms a megapixel and 0.1 ms a line."""
        return _MS_PER_MEGAPIXEL * self.megapixels + _MS_PER_LINE * self.lines

    @property
    def share(self) -> float:
        """Of the budget."""
        return self.ms / self.budget_ms


@dataclass(frozen=True, slots=True)
class Profile:
    """One pipeline on one dataset, line orientation off."""

    dataset: str
    pipeline: str
    stages: tuple[Stage, ...]
    efficiency: tuple[Efficiency, ...]
    overhead: Overhead


def profile(
    yaml: Path,
    pages: Sequence[LabelledPage],
    models: Path,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Profile]:
    """Read every page on replaying engines, then once, timed: by then its shapes are not new.

    The matrix product is timed between the pages. Raises what open_pipeline raises.
    """
    datasets = dict.fromkeys(page.group for page in pages)
    with ExitStack() as stack:
        pipeline = stack.enter_context(closing(open_pipeline(load_config(yaml), models=models)))
        decoder = stack.enter_context(Decoder())
        profiler = _Profiler(yaml, models, pipeline, decoder, stack)
        profiles = []
        for dataset in datasets:
            members = [page for page in pages if page.group == dataset]
            profiler.begin()
            for index, page in enumerate(members, 1):
                progress(f"profile of {yaml.stem}: {dataset}, {index} of {len(members)}")
                profiler.replay(page)
                profiler.read(page)
            profiles.append(profiler.end(dataset))
        return profiles


class _Profiler:
    """Sums over the pages of a dataset."""

    def __init__(
        self, yaml: Path, models: Path, pipeline: Pipeline, decoder: Decoder, stack: ExitStack
    ) -> None:
        config = load_config(yaml)
        self._name, self._decoder, self._pipeline = yaml.stem, decoder, pipeline
        self._counters = {
            part.section: MacCounter(onnx_graph(part.folder, models / "engines", convert=False))
            for part in pipeline_models(config, models)
        }
        cores = find_plan(config, models, None).cores
        # A single request calls the detector once, and reads its lines on all streams.
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
            if section in ("TextDetection", "TextRecognition")  # the others are switched off here
            and stage.engine.spec.backend in BACKENDS
            and stage.engine.spec.precision in PRECISIONS
        }
        self._replaying, self._engines = replayed(pipeline)
        self.begin()

    def begin(self) -> None:
        """A new dataset."""
        self._stopwatch = Stopwatch()
        self._timed = timed(self._pipeline, self._stopwatch, self._on_input)
        self._inputs: list[tuple[str, int, int]] = []
        self._pages, self._lines_ms = 0, 0.0
        self._overhead_ms, self._megapixels, self._lines = 0.0, 0.0, 0

    def read(self, page: LabelledPage) -> None:
        """One page, timed, once every stream has run its shapes."""
        self._pages += 1
        for product in self._products.values():
            product.sample()
        for loaded in load(page.path, decoder=self._decoder):
            self._pipeline.read(loaded.image, _OPTIONS)
        with self._stopwatch.time("decode"):
            images = [loaded.image for loaded in load(page.path, decoder=self._decoder)]
        for image in images:
            result = self._timed.read(image, _OPTIONS)
            self._lines_ms += result.timing["recognise"]

    def replay(self, page: LabelledPage) -> None:
        """The page on engines that answer from memory: the time of everything else."""
        for engine in self._engines:
            engine.forget()
        seconds = []
        for step in range(_ROUNDS + 1):
            start, inside = time.process_time(), _seconds(self._engines)
            pages = [
                (loaded.image, self._replaying.read(loaded.image, _OPTIONS))
                for loaded in load(page.path, decoder=self._decoder)
            ]
            if step:  # the first round runs the engines
                spent = time.process_time() - start
                seconds.append(spent - (_seconds(self._engines) - inside))
            for engine in self._engines:
                engine.replaying = True
        self._overhead_ms += float(np.median(seconds)) * 1e3
        self._megapixels += sum(image.shape[0] * image.shape[1] for image, _ in pages) / 1e6
        self._lines += sum(len(result.lines) for _, result in pages)

    def end(self, dataset: str) -> Profile:
        """The dataset's figures."""
        return Profile(
            dataset,
            self._name,
            self._stages(),
            tuple(self._efficiency(section) for section in self._products),
            Overhead(self._overhead_ms, self._megapixels, self._lines),
        )

    def _on_input(self, section: str, image: Any) -> None:
        """Note the size that the model needs for a page or a line, before padding."""
        height, width = image.shape[:2]
        if section == "TextDetection":
            detector = self._pipeline.detector
            height, width = input_size(detector.model, detector.settings, height, width, _OPTIONS)
        elif section == "TextRecognition":
            recogniser = self._pipeline.recogniser
            height, width = recogniser.model.height, recogniser.scaled_width(image)
        self._inputs.append((section, height, width))

    def _macs(self, section: str) -> float:
        """Multiply-adds that the dataset's pages and lines need, padding not counted."""
        counter = self._counters[section]
        count = counter.macs if section == "TextDetection" else counter.macs_at_width
        return sum(count(height, width) for name, height, width in self._inputs if name == section)

    def _stages(self) -> tuple[Stage, ...]:
        spent = {name: 1e3 * s / self._pages for name, s in self._stopwatch.seconds.items()}
        detect, detect_engine = spent["TextDetection"], spent["TextDetection engine"]
        waiting, lines = spent.get(WAITING, 0.0), self._lines_ms / self._pages
        return (
            Stage("decode", spent["decode"]),
            Stage("detect: engine", detect_engine),
            Stage("detect: resize, boxes", detect - detect_engine),
            Stage("lines: crop, resize, CTC", lines - waiting),
            Stage("lines: engine", waiting),
            Stage("lines: engine, thread time", spent.get("TextRecognition engine", 0.0)),
        )

    def _efficiency(self, section: str) -> Efficiency:
        seconds = self._stopwatch.seconds.get(f"{section} engine", 0.0)
        macs = self._macs(section)
        return Efficiency(
            section,
            str(self._pipeline.stages[section].engine.spec),
            macs / self._pages / 1e9,
            macs / seconds / 1e9 if seconds else 0.0,
            self._products[section].rate / 1e9,
        )


_METHODS = {
    "DocOrientationClassify": "angle",
    "DocUnwarping": "flatten",
    "TextDetection": "detect",
    "TextLineOrientation": "upside_down",
    "TextRecognition": "fit",
}
"""What is timed of each stage; of the recogniser, scaling a line."""
WAITING = "waiting for lines"
"""How long a page waits for the engine to read its lines side by side."""


class Stopwatch:
    """Seconds by name, from any thread."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the time of the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            with self._lock:
                self.seconds[name] += seconds


class TimedEngine(Engine):
    """Times `run` under the name `<section> engine`."""

    def __init__(self, engine: Engine, stopwatch: Stopwatch, section: str) -> None:
        super().__init__(engine.spec)
        self.inputs = engine.inputs
        self._engine, self._stopwatch, self._name = engine, stopwatch, f"{section} engine"

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        with self._stopwatch.time(self._name):
            return self._engine.run(images, *more)


class Proxy:
    """An object with some of its methods replaced."""

    def __init__(self, target: Any, **methods: Callable[..., Any]) -> None:
        self._target = target
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


OnInput = Callable[[str, Any], None]
"""Called with the section of a stage and its input: a page or a line, (H, W, 3) uint8."""


def timed(
    pipeline: Pipeline, stopwatch: Stopwatch, on_input: OnInput = lambda *_: None
) -> Pipeline:
    """The pipeline with its engines, stages and lines timed.

    Names: the section of the YAML for a stage, `<section> engine` for its engine, and WAITING.
    """
    stages: dict[str, Any] = {}
    for section, stage in pipeline.stages.items():
        inner = dataclasses.replace(stage, engine=TimedEngine(stage.engine, stopwatch, section))
        stages[section] = _timed_stage(section, inner, stopwatch, on_input)

    def waiting(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with stopwatch.time(WAITING):
                return method(*arguments)

        return call

    scheduler = pipeline.scheduler
    batches = waiting(scheduler.map_batches)
    proxy = Proxy(scheduler, map=waiting(scheduler.map), map_batches=batches)
    return dataclasses.replace(pipeline, **_fields(stages), scheduler=cast(Scheduler, proxy))


def _timed_stage(section: str, stage: Any, stopwatch: Stopwatch, on_input: OnInput) -> Proxy:
    method = _METHODS[section]
    function = getattr(stage, method)

    def call(image: Any, *arguments: Any, **options: Any) -> Any:
        on_input(section, image)
        with stopwatch.time(section):
            return function(image, *arguments, **options)

    return Proxy(stage, **{method: call})


class ReplayEngine(Engine):
    """Runs an input once, then answers it from memory; `seconds` is its own processor time.

    The processor time of a page on such engines, less `seconds`, is the time outside engine calls.
    Real engines compute on their own threads and the caller's, where it cannot be separated.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.spec)
        self.inputs = engine.inputs
        self.replaying = False
        self.seconds = 0.0
        self._engine = engine
        self._lock = threading.Lock()
        self._kept: dict[Any, tuple[Array, ...]] = {}

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        start = time.thread_time()
        # By image, because which lines share a call varies. No digest: it would release the GIL.
        keys = [(image.shape, image.tobytes()) for image in images]
        if not all(key in self._kept for key in keys):
            if self.replaying:
                raise EngineError("benchmark: a page read again gave an engine another input")
            outputs = self._engine.run(images, *more)
            self._kept.update(zip(keys, zip(*outputs, strict=True), strict=True))
        answers = (self._kept[key] for key in keys)
        answer = tuple(np.stack(column) for column in zip(*answers, strict=True))
        with self._lock:
            self.seconds += time.thread_time() - start
        return answer

    def forget(self) -> None:
        """Drop all answers, for the next page."""
        self._kept.clear()
        self.replaying, self.seconds = False, 0.0


def replayed(pipeline: Pipeline) -> tuple[Pipeline, list[ReplayEngine]]:
    """The pipeline on replaying engines, and these."""
    engines = {section: ReplayEngine(stage.engine) for section, stage in pipeline.stages.items()}
    stages = {
        section: dataclasses.replace(stage, engine=engines[section])
        for section, stage in pipeline.stages.items()
    }
    return dataclasses.replace(pipeline, **_fields(stages)), list(engines.values())


def _fields(stages: dict[str, Any]) -> dict[str, Any]:
    """Stages by section, as fields of a Pipeline."""
    return {
        "page_orienter": cast("PageOrienter | None", stages.get("DocOrientationClassify")),
        "unwarper": cast("Unwarper | None", stages.get("DocUnwarping")),
        "detector": cast(Detector, stages["TextDetection"]),
        "orienter": cast("Orienter | None", stages.get("TextLineOrientation")),
        "recogniser": cast(Recogniser, stages["TextRecognition"]),
    }


def _seconds(engines: Sequence[ReplayEngine]) -> float:
    return sum(engine.seconds for engine in engines)
