"""A line's own picture, cut out of its page and laid straight."""

from __future__ import annotations

from math import ceil

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Quad = npt.NDArray[np.int32]
LONGEST = 3200
"""Pixels; PaddleX squeezes longer lines to this width."""
_UPRIGHT_RATIO = 1.5
"""A crop this much higher than wide holds a line that runs along its height."""


def crop(page: Image, quad: Quad, height: int = 48) -> tuple[Image, int]:
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
        return np.ascontiguousarray(np.rot90(cut)), 90
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
    # Pixel centres fall on pixel centres.
    columns = on * x, below * y, start - first + on * (x - 1) / 2 + below * (y - 1) / 2
    cut = cv2.warpAffine(
        cv2.cvtColor(
            patch, cv2.COLOR_BGR2BGRA
        ),  # four channels take less than half of three's time
        np.array([[column.real for column in columns], [column.imag for column in columns]]),
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(cv2.cvtColor(cut, cv2.COLOR_BGRA2BGR), np.uint8), turn


def _around(page: Image, corners: list[list[float]]) -> tuple[Image, complex]:
    """The part of the page with the pixels that a rectangle needs, and its first pixel's place."""
    (across, down), (height, width) = zip(*corners, strict=True), page.shape[:2]
    left, right = max(int(min(across)) - 1, 0), min(int(max(across)) + 2, width)
    top, bottom = max(int(min(down)) - 1, 0), min(int(max(down)) + 2, height)
    left, top = min(left, width - 1), min(top, height - 1)
    return page[top:bottom, left:right], complex(left, top)


def line_width(height: int, width: int, wanted: int) -> int:
    """How wide a line becomes when it is made `wanted` pixels high: at most LONGEST."""
    return min(LONGEST, ceil(wanted * width / height))


def _runs_down(height: int, width: int) -> bool:
    return width > 0 and height / width >= _UPRIGHT_RATIO


def _y(point: list[float]) -> float:
    return point[1]
