"""What every engine is: a model loaded by one backend, ready to run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from serving import devices
from serving.machine import share

Array = npt.NDArray[Any]

_TOGETHER = 512
"""Pixels that the lines of one call on a CPU are wide, all together."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Which backend runs a model, and how. What a plan chooses among."""

    backend: str
    """openvino, onnxruntime, tensorrt, paddle or fake, as the factory knows them."""
    precision: str = "float32"
    streams: int = 1
    """Calls that run side by side."""
    threads: int = 1
    """Threads of all streams together."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings in the backend's own words."""
    device: str = "cpu"
    """cpu or gpu:N."""
    batch: int = 1
    """Most images of one shape that go into one call."""

    @property
    def kind(self) -> str:
        """cpu or gpu: what an engine depends on, where the cards are equal."""
        return devices.kind(self.device)

    @property
    def dynamic_batching(self) -> bool:
        """Whether the engine puts images of many callers into one call: on a GPU."""
        return self.kind == "gpu" and self.batch > 1

    def max_batch(self, width: int) -> int:
        """How many images of that width a caller gives to one call: 1, 2, 4, ... up to `batch`.

        On a CPU short lines gain (2 of 96 pixels take 1.4 times as long as one, 4 take 2.2 times),
        longer ones do not; and every number is one more shape.
        """
        if self.kind == "gpu":  # the engine dynamic_batching
            return 1
        most = max(1, min(self.batch, _TOGETHER // width))
        return 1 << (most.bit_length() - 1)

    def shared(self, workers: int) -> EngineSpec:
        """What each of so many processes runs: its part of the threads and, on a CPU, of the
        streams. On a GPU these are no share of cores.
        """
        streams = self.streams if self.kind == "gpu" else share(self.streams, workers)
        return replace(self, streams=streams, threads=share(self.threads, workers))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a plan file or an answer."""
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
    """One model on one backend. Safe under many threads; calls beyond `streams` wait."""

    inputs: tuple[str, ...]
    """Names of the graph's inputs, in its order."""
    max_input_size: tuple[int, int] | None = None
    """(height, width) of the largest image that it takes; None: any."""
    nodes: Mapping[str, int] = MappingProxyType({})
    """Nodes of the graph by what runs them, where the backend tells: cuda, tensorrt, cpu."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    @abstractmethod
    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        """Run a batch.

        images: uint8 (N, H, W, 3) for a fused graph, float32 (N, 3, H, W) for a plain one.
        more: what a plain graph of several inputs takes after the first, as `inputs` names them.
        Returns the graph's outputs in its order; the arrays are the caller's own.
        Raises EngineError.
        """

    def warm(self, height: int, width: int) -> None:
        """Run blank inputs of that size, in every way that `run` may be asked to."""
        for size in batch_sizes(self.spec.max_batch(width)):
            self.run(np.full((size, height, width, 3), 255, np.uint8))

    def close(self) -> None:  # noqa: B027  (most backends free with the object)
        """Free what the backend holds. The engine cannot run afterwards."""


def batch_sizes(most: int) -> list[int]:
    """The sizes of calls, up: 1, 2, 4, ... and `most`."""
    return [*(2**step for step in range(most.bit_length()) if 2**step < most), most]
