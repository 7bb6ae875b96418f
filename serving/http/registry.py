"""The served pipelines by name, from not loaded yet to warm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, Protocol, cast

import numpy as np
from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict
from werkzeug.exceptions import NotFound

from serving.config.options import DEFAULT_OPTIONS, Options
from serving.errors import BadRequest, NotReady
from serving.models.probe import draw_text
from serving.output.pages import described
from serving.types import Image, Page


@with_config(ConfigDict(use_attribute_docstrings=True, extra="allow"))
class EngineAnswer(TypedDict):
    """What a model runs on."""

    name: NotRequired[str]
    """As `ocr-hpi plan` prints it; on a CPU, 2x4 is 2 streams of 4 threads each."""
    backend: str
    precision: NotRequired[str]
    streams: NotRequired[int]
    """Calls that run side by side."""
    threads: NotRequired[int]
    """Threads of all streams together."""
    options: NotRequired[dict[str, Any]]
    """Settings in the backend's own words."""


@described
class ModelAnswer(TypedDict):
    """One model and the engine in force."""

    model: str
    engine: EngineAnswer


@described
class MeasuredAnswer(TypedDict):
    """What was measured of one model's engine."""

    ms: float | None
    """Shortest time of the model's share of the calibration pages."""
    figures: dict[str, float]
    """What the accuracy gate found against float32 ONNX Runtime."""


@described
class WorkersAnswer(TypedDict):
    """What so many worker processes, which share the cores, read together."""

    workers: int
    pages_per_second: float | None
    latency_ms: float | None
    """Of a single request."""
    memory_mb: dict[str, int]
    """MiB of one process at most: `memory` and, with a GPU, `GPU memory`."""
    chosen: bool
    reason: str
    """Why it was not chosen, or not measured."""
    noise: float
    """Relative spread of the measurements where they left the choice open, else 0."""


@described
class PlanAnswer(TypedDict):
    """The engine plan in force, as it was measured on this machine."""

    key: str
    made: str
    cores: int
    pages_per_second: NotRequired[float]
    latency_ms: NotRequired[float]
    """Of a single request with a whole page."""
    small_latency_ms: NotRequired[float]
    """Of a single request with a small picture."""
    models: dict[str, MeasuredAnswer]
    workers: int
    """Worker processes that `serve` starts unless it is told a number; for each of several GPUs."""
    worker_trials: list[WorkersAnswer]


@described
class PipelineAnswer(TypedDict):
    """One pipeline that is served."""

    name: str
    url: str
    """Relative to this address, so that it holds behind a proxy with a path prefix."""
    ready: bool
    models: NotRequired[dict[str, ModelAnswer]]
    """By section of the pipeline's YAML, once loaded."""
    plan: NotRequired[PlanAnswer]


class ServedPipeline(Protocol):
    """What the server needs of a pipeline. Thread-safe."""

    @property
    def plan(self) -> Mapping[str, Any]:
        """Measurements of its engines, as a PlanAnswer; empty without a plan."""

    @property
    def identity(self) -> str:
        """Identifies the models and engines: equal for equal ones."""

    def read(self, image: Image, options: Options = DEFAULT_OPTIONS) -> Page:
        """Read one upright page, (H, W, 3) uint8 BGR."""

    def check(self, options: Options) -> None:
        """Raise BadRequest for an option that this pipeline does not support."""

    def settings(self, options: Options = DEFAULT_OPTIONS) -> dict[str, Any]:
        """The effective settings of a request, under PaddleX's names."""

    def to_dict(self) -> dict[str, ModelAnswer]:
        """Models and engines, as plain values."""

    def warm(self) -> None:
        """Run every hot shape once; pages can be read meanwhile."""

    def close(self) -> None:
        """Free the engines."""


def warmup_image() -> Image:
    """A small page of text that every pipeline reads before it is ready, (480, 640, 3) uint8."""
    return np.array(draw_text(480, 640))


class Registry:
    """Pipelines by name, in the order given. Each appears once it has read a warm-up image."""

    def __init__(
        self, names: Sequence[str], problem: Callable[[], str | None] = lambda: None
    ) -> None:
        """problem: why no worker is ready, if the master knows."""
        self.names = tuple(names)
        self._problem = problem
        self._pipelines: dict[str, ServedPipeline] = {}
        self._of_paddlex: set[str] = set()

    def open(
        self,
        load: Callable[[str], ServedPipeline],
        order: Sequence[str] | None = None,
        *,
        warm: bool = False,
    ) -> None:
        """Load every pipeline, in this order, and let it read a page; warm it first if so asked.

        Raises what `load`, `warm` and `read` raise.
        """
        image = warmup_image()
        for name in order or self.names:
            pipeline = load(name)
            if warm:
                pipeline.warm()
            if pipeline.read(image).paddlex is not None:
                self._of_paddlex.add(name)
            self._pipelines[name] = pipeline

    def warm(self) -> None:
        """Warm every loaded pipeline. Raises EngineError."""
        for pipeline in self._pipelines.values():
            pipeline.warm()

    @property
    def ready(self) -> bool:
        """Whether every pipeline is."""
        return len(self._pipelines) == len(self.names)

    def get(self, name: str, *, paddlex: bool = False) -> ServedPipeline:
        """The pipeline of that name. Raises NotFound and NotReady.

        paddlex: whether the caller can answer with PaddleX's result, instead of lines. Raises
        BadRequest where the pipeline has only that.
        """
        if name not in self.names:
            known = ", ".join(self.names)
            raise NotFound(f"no pipeline {name[:60]!r}; there are: {known}")
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            raise self._not_ready([name])
        if name in self._of_paddlex and not paddlex:
            raise BadRequest(
                f"PaddleX runs the pipeline {name}, and it has no lines of text: POST "
                f"/ocr/v1/{name}?format=paddlex answers with PaddleX's own result, without pdf_text"
            )
        return pipeline

    def check_ready(self) -> None:
        """Raise NotReady, with the reason, unless every pipeline is ready."""
        if not self.ready:
            raise self._not_ready([name for name in self.names if name not in self._pipelines])

    def _not_ready(self, names: Sequence[str]) -> NotReady:
        problem = self._problem()
        return NotReady(f"still loading: {', '.join(names)}" + (f"; {problem}" if problem else ""))

    @property
    def identities(self) -> dict[str, str]:
        """What each loaded pipeline consists of."""
        return {name: pipeline.identity for name, pipeline in self._pipelines.items()}

    def to_list(self) -> list[PipelineAnswer]:
        """Every pipeline: its name, address and, once loaded, its models and engines."""
        return [self._to_dict(name) for name in self.names]

    def _to_dict(self, name: str) -> PipelineAnswer:
        pipeline = self._pipelines.get(name)
        answer = PipelineAnswer(name=name, url=f"v1/{name}", ready=pipeline is not None)
        if pipeline is not None:
            answer["models"] = pipeline.to_dict()
            if pipeline.plan:
                answer["plan"] = cast(PlanAnswer, pipeline.plan)
        return answer

    def close(self) -> None:
        """Close every pipeline that was loaded."""
        pipelines, self._pipelines = self._pipelines, {}
        for pipeline in pipelines.values():
            pipeline.close()
