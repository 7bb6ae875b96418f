"""Engines that tell of each call how many images were in it."""

from __future__ import annotations

from collections.abc import Callable

from serving.engines.base import Array, Engine
from serving.engines.batched import BatchedEngine

Tell = Callable[[int], None]
"""Called from any thread, before a call begins, with the images in it."""


class Told(Engine):
    """An engine of which each `run` is one call."""

    def __init__(self, engine: Engine, tell: Tell) -> None:
        super().__init__(engine.spec)
        self.inputs, self.largest, self.nodes = engine.inputs, engine.largest, engine.nodes
        self._engine, self._tell = engine, tell

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        self._tell(len(images))
        return self._engine.run(images, *more)

    def warm(self, height: int, width: int) -> None:
        self._engine.warm(height, width)

    def close(self) -> None:
        self._engine.close()


def telling(engine: Engine, tell: Tell) -> Engine:
    """The engine, telling from now on. One that groups its callers' images tells of the groups."""
    if isinstance(engine, BatchedEngine):
        engine.tell = tell
        return engine
    return Told(engine, tell)
