"""The image that every pipeline has to answer before the server says that it is ready."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

_LINES = ("Ready 0123456789", "The quick brown fox", "jumps over the lazy dog.")


def warmup_image() -> npt.NDArray[np.uint8]:
    """A small page with three clean lines. (480, 640, 3) uint8 BGR."""
    page = Image.new("RGB", (640, 480), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=40)
    for row, line in enumerate(_LINES):
        pen.text((40, 60 + 120 * row), line, fill="black", font=font)
    return np.ascontiguousarray(np.asarray(page)[:, :, ::-1])
