"""Draws results: the page with its boxes and, beside it, each text at its position.

The font is a subset of Noto, shipped with the package (data/OFL.txt).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from serving.types import Image, Line

FACE = "NotoSansCJKsc-Regular.otf"
"""In data/: Latin-1, GB2312, Big5 level 1, JIS X 0208 and hangul, for PDFium too."""

_COLORS = ((36, 28, 214), (180, 105, 20), (32, 138, 34), (160, 32, 150), (0, 128, 214))
_MIN_FONT_SIZE = 6
FontOf = Callable[[int], ImageFont.FreeTypeFont]


def draw(image: Image, lines: Sequence[Line]) -> Image:
    """The page with its boxes on the left, the recognized texts on white on the right.

    `image` is (H, W, 3) BGR and is not changed; the result is (H, 2 W, 3) BGR.
    """
    height, width = image.shape[:2]
    canvas = np.full((height, 2 * width, 3), 255, np.uint8)
    canvas[:, :width] = image
    thickness = max(1, round(max(height, width) / 900))
    font_of = cache(_load_font)  # for this call only: a face of FreeType serves one thread
    for index, line in enumerate(lines):
        color = _COLORS[index % len(_COLORS)]
        outline = np.array(line.quad, np.int32)
        for half in (canvas[:, :width], canvas[:, width:]):
            cv2.polylines(half, [outline], True, color, thickness, cv2.LINE_AA)
        _write_text(canvas[:, width:], line, font_of)
    return canvas


def _write_text(canvas: Image, line: Line, font_of: FontOf) -> None:
    """Fit the line's text into its box, in the direction in which the line reads."""
    box = np.array(line.box, np.float32)
    width = round(float(max(np.linalg.norm(box[1] - box[0]), np.linalg.norm(box[2] - box[3]))))
    height = round(float(max(np.linalg.norm(box[3] - box[0]), np.linalg.norm(box[2] - box[1]))))
    left, top = np.maximum(box.min(axis=0), 0).astype(int)
    right, bottom = np.minimum(box.max(axis=0) + 1, canvas.shape[1::-1]).astype(int)
    if min(width, height, right - left, bottom - top) < 2:
        return
    tile = _render(" ".join(line.text.split()), width, height, font_of)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    origin = np.array([left, top], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, box - origin)
    warped = cv2.warpPerspective(
        tile, matrix, (int(right - left), int(bottom - top)), borderValue=(255,)
    )
    target = canvas[top:bottom, left:right]
    np.minimum(target, warped[:, :, None], out=target, casting="unsafe")


def _render(text: str, width: int, height: int, font_of: FontOf) -> Image:
    """The text in black on white, (height, width) grey, as large as fits."""
    size = max(_MIN_FONT_SIZE, round(height * 0.75))
    length = font_of(size).getlength(text)
    if length > width:
        size = max(_MIN_FONT_SIZE, int(size * width / length))
    tile = PillowImage.new("L", (width, height), 255)
    ImageDraw.Draw(tile).text((0, height / 2), text, fill=0, font=font_of(size), anchor="lm")
    return np.asarray(tile, np.uint8)


def _load_font(size: int) -> ImageFont.FreeTypeFont:
    """At `size` pixels per em. Basic layout: Pillow has Raqm on some machines only."""
    path = Path(__file__).parents[1] / "data" / FACE
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
