"""The engine interface: one model loaded by one backend, ready to run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from serving import devices
from serving.machine import share

Array = npt.NDArray[Any]

OnBatch = Callable[[str, int], None]
"""Observer of a pipeline's engine calls: called from any thread, before each call, with the section
of the YAML and the number of images that callers gave (padding images do not count)."""

_CPU_BATCH_WIDTH = 512
"""Sum of the widths, in pixels, of the lines in one call on a CPU."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which backend runs a model, and how. The candidates of a plan are these."""

    backend: str
    """openvino, onnxruntime, tensorrt or paddle."""
    precision: str = "float32"
    streams: int = 1
    """Calls that run in parallel."""
    threads: int = 1
    """Threads in total, over all streams."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The backend's own options."""
    device: str = "cpu"
    """cpu or gpu:N."""
    batch: int = 1
    """Maximum number of images, all of one shape, in one call."""

    @property
    def kind(self) -> str:
        """cpu or gpu, without the index."""
        return devices.kind(self.device)

    @property
    def dynamic_batching(self) -> bool:
        """Whether images of several callers are merged into one call; only on a GPU."""
        return self.kind == "gpu" and self.batch > 1

    def max_batch(self, width: int) -> int:
        """Maximum number of images of that width per call by one caller: a power of two.

        On a CPU batching helps short lines only: at a width of 96, two take 1.4 times as long as
        one and four 2.2 times. Powers of two, because every batch size is another input shape.
        """
        if self.kind == "gpu":  # the dynamic batcher merges calls
            return 1
        limit = max(1, min(self.batch, _CPU_BATCH_WIDTH // width))
        return 1 << (limit.bit_length() - 1)

    def shared(self, workers: int) -> EngineSpec:
        """The spec of one of several worker processes: its share of the threads and, on a CPU, of
        the streams. Streams of a GPU are not bound to cores.
        """
        streams = self.streams if self.kind == "gpu" else share(self.streams, workers)
        return replace(self, streams=streams, threads=share(self.threads, workers))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a plan file or a response."""
        return asdict(self)

    def __str__(self) -> str:
        extra = "".join(f" {key}={value}" for key, value in sorted(self.options.items()))
        if self.device == "cpu":
            shared = f"{self.streams}x{self.threads // self.streams}"
        else:
            shared = self.device + (f" {self.streams} streams" if self.streams > 1 else "")
        many = f" batch {self.batch}" if self.batch > 1 else ""
        return f"{self.backend} {self.precision} {shared}{many}{extra}"


class Engine(ABC):
    """One model on one backend. Thread-safe; calls beyond `spec.streams` wait."""

    inputs: tuple[str, ...]
    """Names of the graph's inputs, in order."""
    max_input_size: tuple[int, int] | None = None
    """(height, width) of the largest image accepted; None: no limit."""
    nodes: Mapping[str, int] = MappingProxyType({})
    """Number of graph nodes per execution provider (cuda, tensorrt, cpu), where known."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    @abstractmethod
    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        """Run a batch.

        images: uint8 (N, H, W, 3) for a fused graph, float32 (N, 3, H, W) for a plain one.
        more: the further inputs of a plain graph, in the order of `inputs`.
        Returns the graph's outputs in order; the caller owns the arrays.
        Raises EngineError.
        """

    def warm(self, height: int, width: int) -> None:
        """Run blank inputs of that size in every batch size that `run` may get."""
        for size in batch_sizes(self.spec.max_batch(width)):
            self.run(np.full((size, height, width, 3), 255, np.uint8))

    def close(self) -> None:  # noqa: B027  (most backends free with the object)
        """Free the backend's resources. The engine cannot run afterwards."""


class WrappedEngine(Engine):
    """An engine around another one, with its spec and limits. A base for wrappers."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.spec)
        self.inputs, self.nodes = engine.inputs, engine.nodes
        self.max_input_size = engine.max_input_size
        self._engine = engine

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        return self._engine.run(images, *more)

    def warm(self, height: int, width: int) -> None:
        self._engine.warm(height, width)

    def close(self) -> None:
        self._engine.close()


class ObservedEngine(WrappedEngine):
    """Reports the number of images of each call. Warm-up calls are not reported."""

    def __init__(self, engine: Engine, on_batch: Callable[[int], None]) -> None:
        super().__init__(engine)
        self._on_batch = on_batch

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        self._on_batch(len(images))
        return self._engine.run(images, *more)


def batch_sizes(max_batch: int) -> list[int]:
    """The batch sizes in use: powers of two below `max_batch`, and `max_batch` itself."""
    return [*(2**step for step in range(max_batch.bit_length()) if 2**step < max_batch), max_batch]
