"""Boxes from a DB detector's map of logits.

Liao et al., "Real-time Scene Text Detection with Differentiable Binarization" (AAAI 2020), as
PaddleX's DBPostProcess computes it for quads. Pure functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, inf, log
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Map = npt.NDArray[np.float32]
Quads = npt.NDArray[np.int32]
Rects = npt.NDArray[np.float32]

_MIN_SIDE = 3
"""Pixels of the map; a blob with a shorter side is noise."""


@dataclass(frozen=True, slots=True)
class DbParameters:
    """As named in the pipeline YAML and the model's inference.yml."""

    thresh: float
    box_thresh: float
    unclip_ratio: float
    max_candidates: int = 1000
    use_dilation: bool = False
    score_mode: str = "fast"


def quads_from_logits(logits: Map, parameters: DbParameters, *, width: int, height: int) -> Quads:
    """Quads of text lines, (N, 4, 2) int32 in pixels of a page of `width` x `height`.

    logits: (H, W); their sigmoid is the probability of text. It is taken where it is needed only:
    over the whole map it costs 5 ms a page. Corners run clockwise from the top left.
    """
    text = (logits > _logit(parameters.thresh)).view(np.uint8)
    if parameters.use_dilation:
        text = np.asarray(cv2.dilate(text, np.ones((2, 2), np.uint8)), np.uint8)
    contours, _ = cv2.findContours(text, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    rects: list[tuple[float, float, float, float, float]] = []
    for contour in contours[: parameters.max_candidates]:
        (x, y), (w, h), angle = cv2.minAreaRect(contour)
        if min(w, h) < _MIN_SIDE:
            continue
        fast = parameters.score_mode == "fast"
        outline = cv2.boxPoints(((x, y), (w, h), angle)) if fast else contour
        if _mean_probability(logits, outline.reshape(-1, 2)) >= parameters.box_thresh:
            rects.append((x, y, w, h, angle))
    if not rects:
        return np.empty((0, 4, 2), np.int32)
    scale = np.array([width / logits.shape[1], height / logits.shape[0]])
    corners = unclip(np.array(rects, np.float32), parameters.unclip_ratio)
    return _to_page(order_corners(corners), scale, width, height)


def unclip(rects: Rects, ratio: float) -> npt.NDArray[np.float32]:
    """Grow each rectangle by area x ratio / perimeter on every side; drop the tiny ones.

    rects: (N, 5) of centre x, y, width, height, degrees. Returns corners (M, 4, 2), M <= N.
    The reference offsets the polygon with rounded joins (pyclipper) and takes the minimal
    rectangle of the result; for a rectangle that is the grown rectangle itself.
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
    """Sort the corners of (N, 4, 2) clockwise from the top left, as PaddleX does.

    The two leftmost are the left side, the upper of them comes first; likewise on the right.
    """
    by_x = np.take_along_axis(
        corners, np.argsort(corners[:, :, 0], axis=1, kind="stable")[:, :, None], axis=1
    )
    left, right = by_x[:, :2], by_x[:, 2:]
    left_down = (left[:, 1, 1] > left[:, 0, 1])[:, None]
    right_down = (right[:, 1, 1] > right[:, 0, 1])[:, None]
    return np.stack(
        [
            np.where(left_down, left[:, 0], left[:, 1]),
            np.where(right_down, right[:, 0], right[:, 1]),
            np.where(right_down, right[:, 1], right[:, 0]),
            np.where(left_down, left[:, 1], left[:, 0]),
        ],
        axis=1,
    )


def reading_order(quads: Quads) -> Quads:
    """Sort (N, 4, 2) top to bottom; quads whose tops differ by under 10 px, left to right.

    As PaddleX's SortQuadBoxes: by (y, x) of the first corner, then each quad moves left past
    the neighbours on its row.
    """
    order = list(np.lexsort((quads[:, 0, 0], quads[:, 0, 1])))
    tops, lefts = quads[:, 0, 1].tolist(), quads[:, 0, 0].tolist()
    for i in range(1, len(order)):
        j = i
        while j > 0:
            here, before = order[j], order[j - 1]
            if abs(tops[here] - tops[before]) >= 10 or lefts[here] >= lefts[before]:
                break
            order[j], order[j - 1] = before, here
            j -= 1
    return quads[order]


def elongation(quads: Quads) -> npt.NDArray[np.float64]:
    """Long side over short side of each quad (N, 4, 2): what its line costs to read."""
    first = np.hypot(*(quads[:, 1] - quads[:, 0]).T)
    second = np.hypot(*(quads[:, 2] - quads[:, 1]).T)
    return np.asarray(np.maximum(first, second) / np.maximum(np.minimum(first, second), 1))


def _logit(probability: float) -> float:
    if probability in (0.0, 1.0):
        return inf if probability else -inf
    return log(probability / (1 - probability))


def _mean_probability(logits: Map, outline: npt.NDArray[Any]) -> float:
    """Mean probability inside a polygon (its pixels truncated to integers)."""
    height, width = logits.shape
    across, down = outline.T.tolist()
    left, right = (max(0, min(edge, width - 1)) for edge in (floor(min(across)), ceil(max(across))))
    top, bottom = (max(0, min(edge, height - 1)) for edge in (floor(min(down)), ceil(max(down))))
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(mask, [outline.astype(np.int32)], 1, offset=(-left, -top))
    # A sigmoid is half a tanh and a half.
    halved = np.tanh(logits[top : bottom + 1, left : right + 1] * np.float32(0.5))
    return 0.5 + 0.5 * cv2.mean(halved, mask)[0]


def _to_page(
    corners: npt.NDArray[np.float32], scale: npt.NDArray[np.float64], width: int, height: int
) -> Quads:
    return np.rint(corners * scale).clip(0, (width, height)).astype(np.int32)
