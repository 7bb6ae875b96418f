"""Parity check: a fused graph must compute what the model's own graph does.

The accuracy gate cannot detect this, because its reference engine runs the fused graph too.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from serving.config.model import DetectionModel, Model, RecognitionModel, UnwarpingModel
from serving.engines.base import Array, EngineSpec
from serving.engines.factory import FusedAdapter, open_engine
from serving.errors import ModelInvalid
from serving.models.probe import draw_text

_PLAIN = EngineSpec("onnxruntime", "float32")
_PAGE = 320, 480
"""(height, width) of the test page, for a detector that accepts any size."""
_TOLERANCE = 2e-3
"""Maximum difference of a probability."""
_MAP_TOLERANCE = 1.5 / 255
"""A detector's map and a flattened page are quantised to 255ths."""


def verify_parity(fused: Path, plain: Path, model: Model) -> None:
    """Run both on rendered text, in float32.

    Raises ModelInvalid if they differ, or if what they compute are no probabilities; EngineError.
    """
    image = draw_text(*_size(model))[None]
    with (
        closing(open_engine(fused, _PLAIN)) as fused_engine,
        closing(FusedAdapter(open_engine(plain, _PLAIN), model)) as plain_engine,
    ):
        result, expected = fused_engine.run(image), plain_engine.run(image)
    tolerance = _TOLERANCE
    if isinstance(model, DetectionModel | UnwarpingModel):
        result, expected = (result[0] / 255,), (expected[0] / 255,)
        tolerance = _MAP_TOLERANCE
    for scores in expected[-2:]:
        if not (scores.min() >= 0 and scores.max() <= 1 + _TOLERANCE):  # also for NaN
            raise ModelInvalid(
                f"{plain}: its scores are no probabilities ({scores.min():.3g} to "
                f"{scores.max():.3g}); export it with the Softmax or Sigmoid at its end"
            )
    difference = max(map(_difference, result[-2:], expected[-2:]))
    if not difference <= tolerance:  # also for NaN
        raise ModelInvalid(
            f"{plain}: its fused graph computes something else (probabilities "
            f"differ by {difference:.3g}); please report this model"
        )
    if isinstance(model, RecognitionModel):
        index, score, _ = expected
        if (result[0] != index)[score > 0.5].any():  # where it cannot be the second best
            raise ModelInvalid(
                f"{plain}: its fused graph gives other classes; please report this model"
            )


def _size(model: Model) -> tuple[int, int]:
    if isinstance(model, UnwarpingModel):
        return _PAGE
    if isinstance(model, DetectionModel):
        return model.image_shape or _PAGE
    return model.height, model.width


def _difference(result: Array, expected: Array) -> float:
    if result.shape != expected.shape:
        return float("inf")
    return float(np.abs(result - expected).max())
