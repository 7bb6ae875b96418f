"""Text boxes from the probability map of a DB detector.

Liao et al., "Real-time Scene Text Detection with Differentiable Binarization" (AAAI 2020), as
PaddleX's DBPostProcess computes it for quads. Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from serving.types import QuadArray

Map = npt.NDArray[np.uint8]
"""(H, W), the probability of text in 255ths."""
Rects = npt.NDArray[np.float32]

_MAX = 255
"""Map value of probability 1."""
_MIN_SIDE = 3
"""In map pixels; components with a shorter side are dropped as noise."""
_LONG = 1.5
"""Length over height from which a box has a direction."""
_STEEPEST = np.deg2rad(60)
_CANDIDATES = 5
"""Boxes of a page, times the model's `max_candidates`. PaddleX stops at that many contours, specks
included and from the bottom up, which loses the top rows of a dense page."""


@dataclass(frozen=True, slots=True)
class DbParameters:
    """As named in the pipeline YAML and the model's inference.yml."""

    thresh: float
    box_thresh: float
    unclip_ratio: float
    max_candidates: int = 1000
    use_dilation: bool = False
    score_mode: str = "fast"


def quads_from_map(
    probabilities: Map, parameters: DbParameters, *, width: int, height: int
) -> tuple[QuadArray, int]:
    """Quads of text lines, (N, 4, 2) int32 in pixels of a page of `width` x `height`.

    Corners run clockwise from the top left. The number is of quads that were dropped, the least
    likely, because the page has too many.
    """
    text = (probabilities > int(parameters.thresh * _MAX)).view(np.uint8)
    if parameters.use_dilation:
        text = np.asarray(cv2.dilate(text, np.ones((2, 2), np.uint8)), np.uint8)
    contours, _ = cv2.findContours(text, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    min_score = parameters.box_thresh * _MAX
    rects: list[tuple[float, float, float, float, float]] = []
    scores: list[float] = []
    for contour in contours:
        rect = (x, y), (w, h), angle = cv2.minAreaRect(contour)
        if min(w, h) < _MIN_SIDE:
            continue
        fast = parameters.score_mode == "fast"
        outline = cv2.boxPoints(rect) if fast else contour[:, 0]
        score = _mean(probabilities, outline, axis_aligned=fast and angle % 90 == 0)
        if score >= min_score:
            rects.append((x, y, w, h, angle))
            scores.append(score)
    dropped = max(0, len(rects) - _CANDIDATES * parameters.max_candidates)
    if dropped:
        likely = sorted(range(len(rects)), key=scores.__getitem__)[dropped:]
        rects = [rects[index] for index in sorted(likely)]
    if not rects:
        return np.empty((0, 4, 2), np.int32), 0
    scale = np.array([width / probabilities.shape[1], height / probabilities.shape[0]])
    corners = order_corners(unclip(np.array(rects, np.float32), parameters.unclip_ratio))
    return np.rint(corners * scale).clip(0, (width, height)).astype(np.int32), dropped


def unclip(rects: Rects, ratio: float) -> npt.NDArray[np.float32]:
    """Expand each rectangle by area x ratio / perimeter on every side; drop the tiny ones.

    rects: (N, 5) of centre x, y, width, height, degrees. Returns corners (M, 4, 2), M <= N.
    PaddleX offsets the polygon with rounded joins (pyclipper) and takes the minimum area
    rectangle of the result, which for a rectangle is the expanded rectangle itself.
    """
    centre, size, angle = rects[:, :2], rects[:, 2:4], np.deg2rad(rects[:, 4])
    grown = size + 2 * (size.prod(axis=1) * ratio / (2 * size.sum(axis=1)))[:, None]
    kept = grown.min(axis=1) >= _MIN_SIDE + 2
    centre, half, angle = centre[kept], grown[kept] / 2, angle[kept]
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * half[:, :1]
    across = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * half[:, 1:]
    corners = [centre - along - across, centre + along - across]
    corners += [centre + along + across, centre - along + across]
    return np.stack(corners, axis=1)


def order_corners(corners: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Turn the corners of (N, 4, 2), clockwise rectangles, so that they start at the top left.

    The top is the side that runs to the right within 45 degrees of the page's rows; of a line that
    is clearly longer than high, the long side up to 60 degrees: steeper ones are columns. PaddleX
    sorts the corners by x instead, which has ties, and turns boxes of nearly vertical lines around.
    """
    across, down = corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]
    width, height = np.hypot(*across.T), np.hypot(*down.T)
    angle = np.arctan2(across[:, 1], across[:, 0])
    quarter_turns = np.rint(angle / (np.pi / 2))
    along = np.where(width >= height, angle, angle + np.pi / 2)
    half_turns = np.rint(along / np.pi)
    is_line = np.maximum(width, height) >= _LONG * np.minimum(width, height)
    is_line &= np.abs(along - half_turns * np.pi) <= _STEEPEST
    quarter_turns = np.where(is_line, 2 * half_turns - (width < height), quarter_turns)
    first = (np.arange(4) - quarter_turns[:, None].astype(np.int64)) % 4
    return np.take_along_axis(corners, first[:, :, None], axis=1)


def _mean(probabilities: Map, outline: npt.NDArray[Any], *, axis_aligned: bool) -> float:
    """Mean of the map inside a polygon, its corners truncated to pixels.

    axis_aligned: the polygon is a rectangle parallel to the map's sides.
    """
    points = outline.astype(np.int32)
    left, top, width, height = cv2.boundingRect(points)
    right, bottom = left + width, top + height
    left, top = max(left, 0), max(top, 0)
    inside = probabilities[top:bottom, left:right]
    if axis_aligned:
        return cv2.mean(inside)[0]
    mask = np.zeros(inside.shape, np.uint8)
    cv2.fillPoly(mask, [points], 1, offset=(-left, -top))
    return cv2.mean(inside, mask)[0]
