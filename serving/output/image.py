"""Pages as pictures: PNG, and JPEG in base64."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from serving.errors import EngineError, TooLarge
from serving.imaging.draw import draw
from serving.types import Image, Line

_MAX_SIZE = 2000, 2000
"""(height, width), to which larger pictures are scaled down, as PaddleX does."""
_MAX_PNG = 1_000_000
"""Pixels of a side; libpng's own limit."""


def drawn_png(image: Image, lines: Sequence[Line]) -> bytes:
    """The page with its boxes and, beside it, its text. PNG. Raises TooLarge."""
    height, width = image.shape[:2]
    if max(height, 2 * width) > _MAX_PNG:
        raise TooLarge(
            f"the page has {width} x {height} pixels, and a PNG of it and its text, side by side, "
            f"would be wider or higher than {_MAX_PNG}; request another format"
        )
    return _encoded(draw(image, lines), ".png")


def jpeg_base64(image: Image, max_size: tuple[int, int] = _MAX_SIZE, quality: int = 95) -> str:
    """The picture as base64 of a JPEG, scaled down to at most that (height, width)."""
    height, width = image.shape[:2]
    scale = min(max_size[0] / height, max_size[1] / width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return base64.b64encode(_encoded(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality)).decode()


def page_jpeg(image: Image, _: Sequence[Line]) -> str:
    """The page as it was read, without boxes; base64 of a JPEG."""
    return jpeg_base64(image)


def _encoded(image: Image, kind: str, *settings: int) -> bytes:
    written, data = cv2.imencode(kind, image, settings)
    if not written:
        raise EngineError(f"OpenCV cannot encode this page as {kind}")
    return data.tobytes()
