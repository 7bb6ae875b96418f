"""An engine as PaddleX calls a model."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from serving.batching import FairPool
from serving.engines.base import Array, Engine
from serving.errors import EngineError
from serving.imaging.crop import LONGEST
from serving.stages.recognise import Steps, next_step

_STEPS: Steps = ((320, 16), (640, 32), (1280, 64), (LONGEST, 128))
"""Finer than our own recogniser's: PaddleX has padded a batch already, and more costs it spaces."""


class EngineRunner:
    """Takes a list of arrays, one an input, in the order of the inputs' sorted names.

    `lines`: the model reads lines, (N, 3, H, W). The rows of a batch do not touch one another, so
    they may run side by side on the engine's streams.
    `width_classes`: PaddleX pads each batch to its widest line, so that nearly every batch is a
    shape of its own, and to meet a new shape costs an engine more than to read it. Here the
    batch is padded on, as PaddleX pads. That changes some texts, as any padding of lines does.
    """

    def __init__(self, engine: Engine, *, lines: bool, width_classes: bool) -> None:
        self._engine = engine
        self._lines = lines and len(engine.inputs) == 1
        self._width_classes = width_classes
        several = self._lines and engine.spec.streams > 1
        self._pool = FairPool(engine.spec.streams, name="row") if several else None

    def __call__(self, arrays: Array | Sequence[Array]) -> list[Array]:
        """The graph's outputs, in its order. Raises EngineError."""
        given = [arrays] if isinstance(arrays, np.ndarray) else arrays
        names = self._engine.inputs
        if len(given) != len(names):
            raise EngineError(
                f"PaddleX gives {len(given)} arrays, and the model takes {len(names)}: "
                f"{', '.join(names)}"
            )
        named = dict(zip(sorted(names), map(np.ascontiguousarray, given), strict=True))
        first, *more = (named[name] for name in names)
        if not self._lines:
            return list(self._engine.run(first, *more))
        padded = _padded(first) if self._width_classes else first
        # The steps of what was padded on are cut off again.
        share = first.shape[-1] / padded.shape[-1]
        return [out[:, : ceil(out.shape[1] * share)] for out in self._read(padded)]

    def _read(self, batch: Array) -> Sequence[Array]:
        if self._pool is None or len(batch) < 2:
            return self._engine.run(batch)
        rows = self._pool.map(self._engine.run, np.split(batch, len(batch)))
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def close(self) -> None:
        """Free the engine and the threads."""
        if self._pool is not None:
            self._pool.close()
        self._engine.close()


def _padded(batch: Array) -> Array:
    """With zeros on the right, as PaddleX fills normalised lines, up to the class of its width."""
    width = batch.shape[-1]
    if width > LONGEST:
        return batch
    return np.pad(batch, ((0, 0), (0, 0), (0, 0), (0, next_step(width, _STEPS) - width)))
