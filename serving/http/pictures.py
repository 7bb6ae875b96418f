"""Pages as picture files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.errors import EngineError
from serving.imaging.draw import draw
from serving.types import Line

Image = npt.NDArray[np.uint8]


def drawn_png(image: Image, lines: Sequence[Line]) -> bytes:
    """The page with its boxes and, beside it, its text. PNG."""
    return _encoded(draw(image, lines), ".png")


def jpeg(image: Image, most: int) -> bytes:
    """The picture, made smaller where a side is longer than `most` pixels. JPEG."""
    import cv2

    height, width = image.shape[:2]
    scale = most / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return _encoded(image, ".jpg")


def _encoded(image: Image, kind: str) -> bytes:
    import cv2

    written, data = cv2.imencode(kind, image)
    if not written:
        raise EngineError(f"OpenCV does not write this page as {kind}")
    return data.tobytes()
