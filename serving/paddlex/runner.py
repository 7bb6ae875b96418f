"""An engine as PaddleX calls a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.batching import FairPool
from serving.engines.base import Array, Engine
from serving.errors import EngineError


class EngineRunner:
    """Takes a list of arrays, one an input, in the order of the inputs' sorted names.

    `by_row`: the rows of a batch do not touch one another and the model has one input, so that
    they may run side by side on the engine's streams. They keep the batch's padding, so the
    outputs are the whole batch's.
    """

    def __init__(self, engine: Engine, *, by_row: bool) -> None:
        self._engine = engine
        by_row = by_row and len(engine.inputs) == 1 and engine.spec.streams > 1
        self._pool = FairPool(engine.spec.streams, name="row") if by_row else None

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
        if self._pool is None or len(first) < 2:
            return list(self._engine.run(first, *more))
        rows = self._pool.map(self._engine.run, np.split(first, len(first)))
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def close(self) -> None:
        """Free the engine and the threads."""
        if self._pool is not None:
            self._pool.close()
        self._engine.close()
