"""Engines that tell of each call how many images were in it."""

from __future__ import annotations

from collections.abc import Callable

from serving.engines.base import Array, Engine
from serving.engines.batching import DynamicBatcher

OnBatch = Callable[[int], None]
"""Called from any thread, before a call begins, with the images in it."""


class ObservedEngine(Engine):
    """An engine of which each `run` is one call."""

    def __init__(self, engine: Engine, tell: OnBatch) -> None:
        super().__init__(engine.spec)
        self.inputs, self.max_input_size, self.nodes = (
            engine.inputs,
            engine.max_input_size,
            engine.nodes,
        )
        self._engine, self._tell = engine, tell

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        self._tell(len(images))
        return self._engine.run(images, *more)

    def warm(self, height: int, width: int) -> None:
        self._engine.warm(height, width)

    def close(self) -> None:
        self._engine.close()


def observed(engine: Engine, tell: OnBatch) -> Engine:
    """The engine, telling from now on. One that groups its callers' images tells of the groups."""
    if isinstance(engine, DynamicBatcher):
        engine.tell = tell
        return engine
    return ObservedEngine(engine, tell)
