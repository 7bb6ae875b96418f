"""The pipelines by name, from not loaded yet to warm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, Protocol, cast

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict
from werkzeug.exceptions import NotFound

from serving.config.options import DEFAULT_OPTIONS, Options
from serving.errors import NotReady
from serving.http.context import described
from serving.types import Image, Page


@with_config(ConfigDict(use_attribute_docstrings=True, extra="allow"))
class EngineAnswer(TypedDict):
    """What a model runs on."""

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
    """Median time of the model's share of the calibration pages."""
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


@described
class PlanAnswer(TypedDict):
    """The engine plan in force, as it was measured on this machine."""

    key: str
    made: str
    cores: int
    pages_per_second: NotRequired[float]
    latency_ms: NotRequired[float]
    """Of a single request."""
    models: dict[str, MeasuredAnswer]
    workers: int
    """Worker processes that `serve` starts unless it is told a number; for each of several GPUs."""
    worker_trials: list[WorkersAnswer]


@described
class PipelineAnswer(TypedDict):
    """One pipeline that is served."""

    name: str
    url: str
    ready: bool
    models: NotRequired[dict[str, ModelAnswer]]
    """By section of the pipeline's YAML, once loaded."""
    plan: NotRequired[PlanAnswer]


@described
class ReloadError(TypedDict):
    """Why the last reload, or the last replacement of a worker, failed."""

    time: str
    message: str


@described
class ReloadAnswer(TypedDict):
    """How it stands with loading files anew."""

    state: Literal["idle", "loading", "finishing"]
    """`finishing`: the new ones serve, the old ones finish what they have in work."""
    error: ReloadError | None


@described
class PipelinesAnswer(TypedDict):
    """What is served here."""

    pipelines: list[PipelineAnswer]
    generation: NotRequired[int]
    """Grows by one with every reload that succeeds."""
    reload: NotRequired[ReloadAnswer]


class Reader(Protocol):
    """What the server needs of a pipeline. Safe under many threads."""

    @property
    def plan(self) -> Mapping[str, Any]:
        """What was measured of its engines, as a PlanAnswer; empty where nothing was."""

    @property
    def identity(self) -> str:
        """Tells which models and engines were loaded."""

    def read(self, image: Image, options: Options = DEFAULT_OPTIONS) -> Page:
        """Read one upright page, (H, W, 3) uint8 BGR."""

    def settings(self, options: Options = DEFAULT_OPTIONS) -> dict[str, Any]:
        """What is in force for a request, in PaddleX's own words."""

    def to_dict(self) -> dict[str, ModelAnswer]:
        """Models and engines, as plain values."""

    def close(self) -> None:
        """Free the engines."""


class Registry:
    """Pipelines by name, in the order given. Each appears once it answered a warm-up image."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._readers: dict[str, Reader] = {}

    def open(self, load: Callable[[str], Reader], image: Image) -> None:
        """Load every pipeline and let it read `image`. Raises what `load` and `read` raise."""
        for name in self.names:
            reader = load(name)
            reader.read(image)
            self._readers[name] = reader

    @property
    def ready(self) -> bool:
        """Whether every pipeline has answered."""
        return len(self._readers) == len(self.names)

    def get(self, name: str) -> Reader:
        """The pipeline of that name. Raises NotFound and NotReady."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise NotFound(f"no pipeline {name[:60]!r}; there are: {known}")
        reader = self._readers.get(name)
        if reader is None:
            raise NotReady(f"{name} is still loading; GET /health/ready tells when it answers")
        return reader

    def loading(self) -> list[str]:
        """Names of the pipelines that have not answered yet."""
        return [name for name in self.names if name not in self._readers]

    @property
    def identities(self) -> dict[str, str]:
        """What each pipeline has loaded, as far as they are."""
        return {name: reader.identity for name, reader in self._readers.items()}

    def to_dict(self) -> list[PipelineAnswer]:
        """Every pipeline: its name, address and, once loaded, its models and engines."""
        return [self._describe(name) for name in self.names]

    def _describe(self, name: str) -> PipelineAnswer:
        reader = self._readers.get(name)
        told = PipelineAnswer(name=name, url=f"/ocr/v1/{name}", ready=reader is not None)
        if reader is not None:
            told["models"] = reader.to_dict()
            if reader.plan:
                told["plan"] = cast(PlanAnswer, reader.plan)
        return told

    def close(self) -> None:
        """Close every pipeline that was loaded."""
        readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader.close()
