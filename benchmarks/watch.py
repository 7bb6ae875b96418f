"""Stand-ins for a pipeline's engines, stages and pool that note what each call takes."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np

from serving.engines.base import Array, Engine
from serving.errors import EngineError
from serving.ocr.detect import Detector
from serving.ocr.orient import Orienter
from serving.ocr.pipeline import Pipeline
from serving.ocr.recognise import Recogniser
from serving.ocr.scheduler import Scheduler

_METHODS = {"TextDetection": "find", "TextLineOrientation": "turned", "TextRecognition": "fit"}
READING = "reading"
"""What a page waits for while its lines are read side by side."""


class Watch:
    """Seconds by name, from any thread."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Adds what the block takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            with self._lock:
                self.seconds[name] += took


class TimedEngine(Engine):
    """Times `run` under the name `<section> engine`."""

    def __init__(self, engine: Engine, watch: Watch, section: str) -> None:
        super().__init__(engine.spec)
        self.inputs = engine.inputs
        self._engine, self._watch, self._name = engine, watch, f"{section} engine"

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        with self._watch.time(self._name):
            return self._engine.run(images, *more)


class Stand:
    """Stands in for an object; some methods of it are other functions."""

    def __init__(self, inner: Any, **methods: Callable[..., Any]) -> None:
        self._inner = inner
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


Seen = Callable[[str, Any], None]
"""Called with the section of a stage and what it was given: a page or a line, (H, W, 3) uint8."""


def timed(pipeline: Pipeline, watch: Watch, seen: Seen = lambda *_: None) -> Pipeline:
    """The pipeline with its engines, stages and lines timed by `watch`.

    Names: a section of the YAML, for its stage (of the recogniser, to scale lines); `<section>
    engine` for its engine; READING.
    """
    stages: dict[str, Any] = {}
    for section, stage in pipeline.stages.items():
        inner = dataclasses.replace(stage, engine=TimedEngine(stage.engine, watch, section))
        stages[section] = _timed_stage(section, inner, watch, seen)

    def waited(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with watch.time(READING):
                return method(*arguments)

        return call

    pool = pipeline.pool
    stand = Stand(pool, map=waited(pool.map), map_batches=waited(pool.map_batches))
    return dataclasses.replace(pipeline, **_fields(stages), pool=cast(Scheduler, stand))


def _timed_stage(section: str, stage: Any, watch: Watch, seen: Seen) -> Stand:
    method = _METHODS[section]
    function = getattr(stage, method)

    def call(image: Any, *arguments: Any, **options: Any) -> Any:
        seen(section, image)
        with watch.time(section):
            return function(image, *arguments, **options)

    return Stand(stage, **{method: call})


class ReplayEngine(Engine):
    """Runs an input once, then answers from memory; `seconds` is the processor time it took.

    What a page takes on such engines, less `seconds`, is processor time outside engine calls:
    the backends compute on threads of their own and on the caller's, so that it cannot be told
    apart while they run.
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
        # A digest would let other threads in meanwhile. Which lines share a call is by chance.
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
        """Drop what was kept, for the next page."""
        self._kept.clear()
        self.replaying, self.seconds = False, 0.0


def replayed(pipeline: Pipeline) -> tuple[Pipeline, list[ReplayEngine]]:
    """The pipeline on replay engines, and these."""
    engines = {section: ReplayEngine(stage.engine) for section, stage in pipeline.stages.items()}
    stages = {
        section: dataclasses.replace(stage, engine=engines[section])
        for section, stage in pipeline.stages.items()
    }
    return dataclasses.replace(pipeline, **_fields(stages)), list(engines.values())


def _fields(stages: dict[str, Any]) -> dict[str, Any]:
    """Stages by section, as fields of a Pipeline."""
    return {
        "detector": cast(Detector, stages["TextDetection"]),
        "orienter": cast("Orienter | None", stages.get("TextLineOrientation")),
        "recogniser": cast(Recogniser, stages["TextRecognition"]),
    }
