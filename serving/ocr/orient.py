"""Line orientation: does a line stand on its head?"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from serving.config.model import OrientationModel
from serving.engines.base import Engine
from serving.imaging.resize import resize, resize_into

Image = npt.NDArray[np.uint8]
_GREY = 128
"""The byte nearest to the zero that PaddleOCR pads its normalised lines with."""


@dataclass(frozen=True, slots=True)
class Orienter:
    """A two-class line classifier; safe under many threads."""

    engine: Engine
    model: OrientationModel

    def turned(self, crop: Image) -> float:
        """Probability that the line (H, W, 3) is turned by 180 degrees."""
        return float(self.engine.run(self.fit(crop)[None])[0][0, self.model.turned])

    def fit(self, crop: Image) -> Image:
        """Scale to the model's input; a line classifier that keeps the aspect pads to the right."""
        height, width = self.model.height, self.model.width
        if not self.model.keep_ratio:
            return resize(crop, height, width)
        own = min(width, ceil(height * crop.shape[1] / crop.shape[0]))
        fitted = np.empty((height, width, 3), np.uint8)
        resize_into(fitted[:, :own], crop)
        fitted[:, own:] = _GREY
        return fitted
