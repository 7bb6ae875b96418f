"""Pages as picture files."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from serving.errors import EngineError
from serving.imaging.draw import draw
from serving.types import Image, Line

MOST_SIDE = 2000
"""Pictures in an answer are made to fit a square of so many pixels, as PaddleX does."""


def drawn_png(image: Image, lines: Sequence[Line]) -> bytes:
    """The page with its boxes and, beside it, its text. PNG."""
    return _encoded(draw(image, lines), ".png")


def jpeg_base64(image: Image) -> str:
    """The picture as it stands in JSON: base64 of JPEG, made smaller where it is large."""
    return base64.b64encode(_jpeg(image)).decode("ascii")


def plain(image: Image, _: Sequence[Line]) -> str:
    """The page as it was read, with nothing drawn on it; as jpeg_base64."""
    return jpeg_base64(image)


def _jpeg(image: Image) -> bytes:
    import cv2

    height, width = image.shape[:2]
    scale = MOST_SIDE / max(height, width)
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
