"""A rendered image and what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.types import Quad


@dataclass(frozen=True, slots=True)
class TruthLine:
    """One line of text as it was drawn."""

    text: str
    quad: Quad
    """Corners of the ink with a small margin: clockwise, from the page's top left."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A rendered page, or a crop of a single line."""

    name: str
    image: NDArray[np.uint8]
    """(H, W, 3), BGR."""
    lines: tuple[TruthLine, ...]
    degraded: bool
    """Whether blur, noise, skew, low resolution or hard compression was laid over it."""
