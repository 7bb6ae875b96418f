"""A line's own picture, cut out of its page and laid straight."""

from __future__ import annotations

from math import ceil

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Quad = npt.NDArray[np.int32]
HEIGHT = 48
"""Of a line, in pixels, for all of PP-OCR's recognisers since v3."""
LONGEST = 3200
"""Pixels; PaddleX squeezes longer lines to this width."""
_FEW = 4
"""Pixels of the page for each of the crop, up to which they get a fourth channel: OpenCV warps four
in half the time of three. A long slanting line may have the whole page around it."""
_UPRIGHT_RATIO = 1.5
"""A crop this much higher than wide holds a line that runs along its height."""


def crop(page: Image, quad: Quad, height: int = HEIGHT) -> tuple[Image, int]:
    """Cut the quad (4, 2) out of the page; returns the crop and its turn in degrees.

    As PaddleX's CropByPolys: the minimal rectangle of the quad, edges replicated. A quad that
    stands straight, as two of three do on scans, is a part of the page as it is, and the crop a
    view of it. A slanting one is warped linearly and comes at once at the `height` of a model's
    lines and the width that goes with it: scaled once and not twice it reads a little better, in a
    third of the time of the reference's cubic warp. A turn of 90 means that the line runs down the
    page and the crop was turned counter-clockwise to lie flat; otherwise 0. No area gives an empty
    crop.
    """
    cut = _straight(page, quad)
    if cut is None:
        return _laid_straight(page, quad, height)
    if _runs_down(*cut.shape[:2]):
        return np.rot90(cut), 90
    return cut, 0


def _straight(page: Image, quad: Quad) -> Image | None:
    """The part of the page that a quad is; None for one that stands slanting or reaches out."""
    a, b, c, d = quad.tolist()
    (left, top), (right, bottom) = a, c
    if b != [right, top] or d != [left, bottom]:
        return None
    if not (0 <= left <= right <= page.shape[1] and 0 <= top <= bottom <= page.shape[0]):
        return None
    return page[top:bottom, left:right]


def _laid_straight(page: Image, quad: Quad, height: int) -> tuple[Image, int]:
    corners = sorted(cv2.boxPoints(cv2.minAreaRect(quad)).tolist())
    left, low_left = (complex(*point) for point in sorted(corners[:2], key=_y))
    right, low_right = (complex(*point) for point in sorted(corners[2:], key=_y))
    across = int(max(abs(right - left), abs(low_right - low_left)))
    down = int(max(abs(low_left - left), abs(low_right - right)))
    if across == 0 or down == 0:
        return np.empty((0, 0, 3), np.uint8), 0
    # Points of the page, as complex numbers: the line's first pixel, and a pixel on and below.
    start, on, below, turn = left, (right - left) / across, (low_left - left) / down, 0
    if _runs_down(down, across):
        start, on, below, turn = right - on, below, -on, 90
        across, down = down, across
    width = line_width(down, across, height)
    x, y = across / width, down / height
    patch, first = _around(page, corners)
    four = patch.shape[0] * patch.shape[1] <= _FEW * width * height
    if four:
        patch = np.asarray(cv2.cvtColor(patch, cv2.COLOR_BGR2BGRA), np.uint8)
    # Pixel centres fall on pixel centres.
    columns = on * x, below * y, start - first + on * (x - 1) / 2 + below * (y - 1) / 2
    cut = cv2.warpAffine(
        patch,
        np.array([[column.real for column in columns], [column.imag for column in columns]]),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    if four:
        cut = cv2.cvtColor(cut, cv2.COLOR_BGRA2BGR)
    return np.asarray(cut, np.uint8), turn


def _around(page: Image, corners: list[list[float]]) -> tuple[Image, complex]:
    """The part of the page with the pixels that a rectangle needs, and its first pixel's place."""
    (xs, ys), (height, width) = zip(*corners, strict=True), page.shape[:2]
    left, right = max(int(min(xs)) - 1, 0), min(int(max(xs)) + 2, width)
    top, bottom = max(int(min(ys)) - 1, 0), min(int(max(ys)) + 2, height)
    left, top = min(left, width - 1), min(top, height - 1)
    return page[top:bottom, left:right], complex(left, top)


def line_width(height: int, width: int, wanted: int) -> int:
    """How wide a line becomes when it is made `wanted` pixels high: at most LONGEST."""
    return min(LONGEST, ceil(wanted * width / height))


def _runs_down(height: int, width: int) -> bool:
    return width > 0 and height / width >= _UPRIGHT_RATIO


def _y(point: list[float]) -> float:
    return point[1]
