"""Does a fused graph compute what the model's own does? Held before an engine ever loads it.

The accuracy gate could not tell: its reference runs the fused graph as well.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from serving.config.model import DetectionModel, Model
from serving.engines.base import Array, EngineSpec
from serving.engines.factory import FusedAdapter, open_engine
from serving.errors import ModelInvalid
from serving.models.probe import draw_text

_PLAIN = EngineSpec("onnxruntime", "float32")
_PAGE = 320, 480
"""(height, width) of the page for a detector that takes any."""
_MOST = 2e-3
"""Of a probability."""
_MOST_ON_MAP = 1.5 / 255
"""A detector's map has them in whole 255ths."""


def verify_parity(fused: Path, plain: Path, model: Model) -> None:
    """Read drawn text by both, in float32. Raises ModelInvalid where they differ; EngineError."""
    image = draw_text(*_size(model))[None]
    with (
        closing(open_engine(fused, _PLAIN)) as one,
        closing(FusedAdapter(open_engine(plain, _PLAIN), model)) as other,
    ):
        found, wanted = one.run(image), other.run(image)
    most = _MOST
    if isinstance(model, DetectionModel):
        found, wanted, most = (found[0] / 255,), (wanted[0] / 255,), _MOST_ON_MAP
    apart = max(map(_difference, found[-2:], wanted[-2:]))
    if not apart <= most:  # also where it is no number
        raise ModelInvalid(
            f"{plain}: the graph made of it for the engines computes something else (probabilities "
            f"differ by {apart:.3g}); please tell which model this is"
        )


def _size(model: Model) -> tuple[int, int]:
    if isinstance(model, DetectionModel):
        return model.image_shape or _PAGE
    return model.height, model.width


def _difference(found: Array, wanted: Array) -> float:
    return float(np.abs(found - wanted).max()) if found.shape == wanted.shape else float("inf")
