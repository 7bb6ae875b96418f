"""An engine that is a Python function, for tests of the code around an engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from serving.engines.base import Array, Engine, EngineSpec


class FakeEngine(Engine):
    """Answers with `function(images)`."""

    def __init__(self, function: Callable[[Array], tuple[Array, ...]]) -> None:
        super().__init__(EngineSpec(backend="fake"))
        self.inputs = ("image",)
        self._function = function

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        return self._function(images)


def dark_is_text(images: Array) -> tuple[Array, ...]:
    """A detector: a pixel darker than mid-grey is text. (N, H, W, 3) -> (N, 1, H, W)."""
    dark = (images.max(axis=3, keepdims=True) < 128).transpose(0, 3, 1, 2)
    return (np.where(dark, 255, 0).astype(np.uint8),)


def width_as_text(images: Array) -> tuple[Array, ...]:
    """A recogniser: one character for every 16 pixels of width, classes 2 and 3 in turn."""
    steps = images.shape[2] // 8
    index = np.zeros((len(images), steps), np.int64)
    index[:, ::2] = 2 + np.arange(len(index[0, ::2])) % 2
    score = np.full((len(images), steps), 0.9, np.float32)
    return index, score, np.zeros_like(score)
