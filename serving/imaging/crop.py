"""A line's own picture, cut out of its page and laid straight."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Quad = npt.NDArray[np.int32]
_UPRIGHT_RATIO = 1.5
"""A crop this much higher than wide holds a line that runs along its height."""


def crop(page: Image, quad: Quad) -> tuple[Image, int]:
    """Cut the quad (4, 2) out of the page; returns the crop and its turn in degrees.

    As PaddleX's CropByPolys: the minimal rectangle of the quad, perspective warp, cubic
    interpolation, edges replicated. A turn of 90 means that the line runs down the page and the
    crop was turned counter-clockwise to lie flat; otherwise 0. No area gives an empty crop.
    """
    corners = min_rect(quad)
    width = int(max(_length(corners[0], corners[1]), _length(corners[2], corners[3])))
    height = int(max(_length(corners[0], corners[3]), _length(corners[1], corners[2])))
    if width == 0 or height == 0:
        return np.empty((0, 0, 3), np.uint8), 0
    flat = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    cut = cv2.warpPerspective(
        page,
        cv2.getPerspectiveTransform(corners, flat),
        (width, height),
        borderMode=cv2.BORDER_REPLICATE,
        flags=cv2.INTER_CUBIC,
    )
    if height / width >= _UPRIGHT_RATIO:
        return np.ascontiguousarray(np.rot90(cut), np.uint8), 90
    return np.asarray(cut, np.uint8), 0


def min_rect(quad: Quad) -> npt.NDArray[np.float32]:
    """Corners (4, 2) of the minimal rectangle round a quad, clockwise from the top left."""
    points = sorted(cv2.boxPoints(cv2.minAreaRect(quad)).tolist())
    left, right = sorted(points[:2], key=_y), sorted(points[2:], key=_y)
    return np.array([left[0], right[0], right[1], left[1]], np.float32)


def _y(point: list[float]) -> float:
    return point[1]


def _length(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(np.hypot(*(a - b)))
