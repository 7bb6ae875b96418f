"""The skew of a page, from its lines, and the page turned back by it. Pure functions."""

from __future__ import annotations

from math import cos, radians, sin

import numpy as np
import numpy.typing as npt

from serving.types import Image, QuadArray

Lengths = npt.NDArray[np.float64]
Affine = npt.NDArray[np.float64]
"""(2, 3): from the pixels of a page turned back to those of the page itself."""

_LONG = 2
"""Length over height from which a line has a direction."""
_NEAR = radians(4)
"""Lines of one page differ in direction by less."""
_MIN_SHARE = 0.6
"""Of the lines' length, what has to run in one direction."""
_NOISE = 0.3
"""Of the direction of a line as long as it is high, in radians; it falls with the length. A short
word leans by some degrees as it is detected: a few of them do not tell the skew of a page."""
_STEEP, _UPRIGHT, _MAX_UPRIGHT = radians(35), radians(2), 0.15
"""Steeper lines are watermarks if this share of the lines' length is upright."""
_MARGIN = 0.1
"""Around the lines that were found, as a share of the longer side: others may have been missed, and
a lone line needs some space to be found as one."""


def skew(quads: QuadArray) -> float | None:
    """The direction in radians that most lines (N, 4, 2) share, up to 60 degrees; None if none.

    It is the median of their longer sides' directions, weighted by length, clockwise. Lines
    written upwards or downwards count as those of a page that was turned by 90 degrees.
    """
    across, down = quads[:, 1] - quads[:, 0], quads[:, 3] - quads[:, 0]
    lengths = _lengths(quads)
    is_upright = lengths[0] >= lengths[1]
    angles = np.where(
        is_upright, np.arctan2(across[:, 1], across[:, 0]), np.arctan2(-down[:, 0], down[:, 1])
    )
    long = np.maximum(*lengths)
    weights = np.where(long >= _LONG * np.minimum(*lengths), long, 0.0)
    if not weights.any():
        return None
    by_angle = np.argsort(angles)
    total = np.cumsum(weights[by_angle])
    angle = float(angles[by_angle[np.searchsorted(total, total[-1] / 2)]])
    share = weights[np.abs(angles - angle) < _NEAR].sum() / total[-1]
    upright = weights[np.abs(angles) < _UPRIGHT].sum() / total[-1]
    is_watermark = abs(angle) > _STEEP and upright > _MAX_UPRIGHT
    return angle if share >= _MIN_SHARE and not is_watermark else None


def noise(quads: QuadArray) -> float:
    """The angle in radians up to which the skew of lines (N, 4, 2) may be no more than noise."""
    lengths = _lengths(quads)
    ratios = np.maximum(*lengths) / np.maximum(np.minimum(*lengths), 1)
    return _NOISE / float(np.sqrt(np.sum(ratios[ratios >= _LONG] ** 2)) or 1)


def _lengths(quads: QuadArray) -> tuple[Lengths, Lengths]:
    """Of the upper and the left side of each line, (N,)."""
    return np.hypot(*(quads[:, 1] - quads[:, 0]).T), np.hypot(*(quads[:, 3] - quads[:, 0]).T)


def turned_size(page: Image, angle: float) -> tuple[float, float]:
    """(height, width) of the page (H, W, 3) turned by `angle` (radians), with its corners."""
    (height, width), across, down = page.shape[:2], abs(cos(angle)), abs(sin(angle))
    return height * across + width * down, width * across + height * down


def turn_back(page: Image, angle: float, around: QuadArray | None = None) -> tuple[Image, Affine]:
    """The page (H, W, 3), turned counter-clockwise by `angle` (radians), at the same scale.

    White where it reaches beyond the page. around: quads of its lines; only they and a margin are
    kept.
    """
    import cv2  # which the client of a server, that only asks for the skew, does not have

    height, width = page.shape[:2]
    back = np.array([[cos(angle), sin(angle)], [-sin(angle), cos(angle)]])
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)]) @ back.T
    first, last = corners.min(axis=0), corners.max(axis=0)
    if around is not None and len(around):
        lines = around.reshape(-1, 2) @ back.T
        margin = _MARGIN * np.ptp(lines, axis=0).max()
        first = np.maximum(first, lines.min(axis=0) - margin)
        last = np.minimum(last, lines.max(axis=0) + margin)
    size = np.ceil(last - first).astype(int)
    affine = np.column_stack([back.T, back.T @ first])
    turned = cv2.warpAffine(
        page,
        affine,
        size.tolist(),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(255, 255, 255),
    )
    return np.asarray(turned, np.uint8), affine


def to_page(quads: QuadArray, affine: Affine) -> QuadArray:
    """Quads (N, 4, 2) of a page turned back, in pixels of the page itself."""
    return np.rint(quads @ affine[:, :2].T + affine[:, 2]).astype(np.int32)
