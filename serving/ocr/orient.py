"""Line orientation: is a line upside down?"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from serving.config.model import OrientationModel
from serving.engines.base import Engine
from serving.imaging.resize import resize, resize_into
from serving.types import Image

_GREY = 128
"""The byte nearest to zero after normalisation, with which PaddleOCR pads."""


@dataclass(frozen=True, slots=True)
class Orienter:
    """A two-class line classifier. Thread-safe."""

    engine: Engine
    model: OrientationModel

    def upside_down(self, crop: Image) -> float:
        """Probability that the line (H, W, 3) is rotated by 180 degrees."""
        return float(self.engine.run(self.fit(crop)[None])[0][0, self.model.class_180])

    def fit(self, crop: Image) -> Image:
        """Scale to the model's input; one that keeps the aspect ratio is padded on the right."""
        height, width = self.model.height, self.model.width
        if not self.model.keep_ratio:
            return resize(crop, height, width)
        scaled = min(width, ceil(height * crop.shape[1] / crop.shape[0]))
        fitted = np.empty((height, width, 3), np.uint8)
        resize_into(fitted[:, :scaled], crop)
        fitted[:, scaled:] = _GREY
        return fitted
