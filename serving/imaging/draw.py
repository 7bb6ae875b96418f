"""Draws a reading: the page with its boxes, and beside it each text where it stands.

The fonts that come with the package: subsets of Noto (data/OFL.txt), Latin and Chinese.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from serving.types import Line

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


Face = Literal[
    "NotoSansCJKsc-Regular.otf",
    "NotoSerifCJKsc-Regular.otf",
    "NotoSans-Bold.ttf",
    "NotoSerif-Regular.ttf",
    "NotoSansMono-Regular.ttf",
]

CHINESE: tuple[Face, ...] = ("NotoSansCJKsc-Regular.otf", "NotoSerifCJKsc-Regular.otf")
"""Faces with GB2312 hanzi (the second: level 1) beside Latin-1."""

LATIN: tuple[Face, ...] = ("NotoSerif-Regular.ttf", "NotoSansMono-Regular.ttf", "NotoSans-Bold.ttf")
"""Faces with Latin-1 only."""


def load_font(face: Face, size: int) -> FreeTypeFont:
    """`face` at `size` pixels per em. A character that it lacks is drawn as an empty box.

    Basic layout, so that text lies the same whether or not Pillow was built with Raqm.
    """
    from PIL import ImageFont

    with resources.as_file(resources.files("serving") / "data" / face) as path:
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


_COLOURS = ((36, 28, 214), (180, 105, 20), (32, 138, 34), (160, 32, 150), (0, 128, 214))
_SMALLEST = 6


def draw(image: NDArray[np.uint8], lines: Sequence[Line]) -> NDArray[np.uint8]:
    """The page with each line's box at the left, the texts on white at the right.

    image: (H, W, 3), BGR, uint8; left as it is. Returns (H, 2 W, 3), BGR, uint8. A character
    that the package's font lacks is drawn as an empty box.
    """
    import cv2

    height, width = image.shape[:2]
    both = np.full((height, 2 * width, 3), 255, np.uint8)
    both[:, :width] = image
    thickness = max(1, round(max(height, width) / 900))
    loaded: dict[int, FreeTypeFont] = {}
    for index, line in enumerate(lines):
        colour = _COLOURS[index % len(_COLOURS)]
        outline = np.array(line.quad, np.int32)
        for half in (both[:, :width], both[:, width:]):
            cv2.polylines(half, [outline], True, colour, thickness, cv2.LINE_AA)
        _write(both[:, width:], line, loaded)
    return both


def _write(sheet: NDArray[np.uint8], line: Line, loaded: dict[int, FreeTypeFont]) -> None:
    """Fits the line's text into its box on `sheet`, along the line's own direction."""
    import cv2

    box = np.array(line.box, np.float32)
    width = round(float(max(np.linalg.norm(box[1] - box[0]), np.linalg.norm(box[2] - box[3]))))
    height = round(float(max(np.linalg.norm(box[3] - box[0]), np.linalg.norm(box[2] - box[1]))))
    left, top = np.maximum(box.min(axis=0), 0).astype(int)
    right, bottom = np.minimum(box.max(axis=0) + 1, sheet.shape[1::-1]).astype(int)
    if min(width, height, right - left, bottom - top) < 2:
        return
    tile = _tile(" ".join(line.text.split()), width, height, loaded)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    origin = np.array([left, top], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, box - origin)
    warped = cv2.warpPerspective(
        tile, matrix, (int(right - left), int(bottom - top)), borderValue=(255,)
    )
    region = sheet[top:bottom, left:right]
    np.minimum(region, warped[:, :, None], out=region, casting="unsafe")


def _tile(text: str, width: int, height: int, loaded: dict[int, FreeTypeFont]) -> NDArray[np.uint8]:
    """The text in black on white, (height, width), as large as fits."""
    from PIL import Image, ImageDraw

    def font_of(size: int) -> FreeTypeFont:
        if size not in loaded:
            loaded[size] = load_font(CHINESE[0], size)
        return loaded[size]

    size = max(_SMALLEST, round(height * 0.75))
    length = font_of(size).getlength(text)
    if length > width:
        size = max(_SMALLEST, int(size * width / length))
    tile = Image.new("L", (width, height), 255)
    ImageDraw.Draw(tile).text((0, height / 2), text, fill=0, font=font_of(size), anchor="lm")
    return np.asarray(tile, np.uint8)
