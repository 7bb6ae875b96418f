"""How well pages were read: F1 of words and characters, error rates, agreement of boxes.

F1 is micro-averaged: counts are added over pages, then divided once. Texts are compared as they
are: case kept, nothing normalised.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from serving.types import Quad


@dataclass(frozen=True, slots=True)
class Overlap:
    """Counts of what the truth and the reading have in common. Summed over pages, then divided."""

    common: int = 0
    truth: int = 0
    read: int = 0

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(self.common + other.common, self.truth + other.truth, self.read + other.read)

    @property
    def precision(self) -> float:
        """Share of what was read that is in the truth, 0 to 1; 1 when nothing was read."""
        return self.common / self.read if self.read else 1.0

    @property
    def recall(self) -> float:
        """Share of the truth that was read, 0 to 1; 1 when there is nothing to read."""
        return self.common / self.truth if self.truth else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 to 1; 1 when both sides are empty."""
        both = self.truth + self.read
        return 2 * self.common / both if both else 1.0


def token_overlap(truth: Iterable[str], read: Iterable[str]) -> Overlap:
    """One page's lines as bags of tokens, split at white space."""
    return _overlap(truth, read, str.split)


def character_overlap(truth: Iterable[str], read: Iterable[str]) -> Overlap:
    """One page's lines as bags of characters, white space left out."""
    return _overlap(truth, read, lambda line: itertools.chain.from_iterable(line.split()))


def _overlap(
    truth: Iterable[str], read: Iterable[str], units: Callable[[str], Iterable[str]]
) -> Overlap:
    expected = Counter(unit for line in truth for unit in units(line))
    actual = Counter(unit for line in read for unit in units(line))
    return Overlap((expected & actual).total(), expected.total(), actual.total())


def edit_distance(a: str, b: str) -> int:
    """Insertions, deletions and substitutions between two texts (Levenshtein).

    Bit-parallel, one step per character of `b`: H. Hyyrö, "A bit-vector algorithm for computing
    Levenshtein and Damerau edit distances", Nordic Journal of Computing 10 (2003).
    """
    if a == b:
        return 0
    if not a or not b:
        return len(a) + len(b)
    positions: dict[str, int] = {}
    for index, character in enumerate(a):
        positions[character] = positions.get(character, 0) | 1 << index
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    # Where the distance grows or shrinks from one row to the next, down the column of `b`.
    plus, minus, distance = full, 0, len(a)
    for character in b:
        match = positions.get(character, 0)
        zero = (((match & plus) + plus) ^ plus) | match | minus
        up, down = minus | (full & ~(zero | plus)), plus & zero
        distance += bool(up & last) - bool(down & last)
        up = (up << 1 | 1) & full
        down = (down << 1) & full
        plus, minus = down | (full & ~(zero | up)), up & zero
    return distance


def character_errors(truth: str, read: str, *, spaces: bool = True) -> tuple[int, int]:
    """Edit distance of one line and the length of its truth, with or without white space."""
    if not spaces:
        truth, read = "".join(truth.split()), "".join(read.split())
    return edit_distance(truth, read), len(truth)


def error_rate(truths: Iterable[str], reads: Iterable[str], *, spaces: bool = True) -> float:
    """Character error rate over lines: all errors over all characters of the truth.

    May exceed 1. Without a character to read: 0 when nothing was read, else infinite.
    """
    pairs = [character_errors(t, r, spaces=spaces) for t, r in zip(truths, reads, strict=True)]
    errors, length = (sum(column) for column in zip(*pairs, strict=True)) if pairs else (0, 0)
    if not length:
        return float("inf") if errors else 0.0
    return errors / length


def accuracy(truths: Iterable[str], reads: Iterable[str], *, spaces: bool = True) -> float:
    """Share of correct characters: 1 less the error rate, not below 0."""
    return max(0.0, 1.0 - error_rate(truths, reads, spaces=spaces))


def iou(a: Quad, b: Quad) -> float:
    """Intersection over union of two convex quads, 0 to 1; 0 where either has no area."""
    import cv2

    if not _near(a, b):
        return 0.0
    first, second = np.array(a, np.float32), np.array(b, np.float32)
    common, _ = cv2.intersectConvexConvex(first, second)
    union = cv2.contourArea(first) + cv2.contourArea(second) - common
    return float(min(1.0, common / union)) if common > 0 and union > 0 else 0.0


def _near(a: Quad, b: Quad) -> bool:
    """Whether the upright rectangles around the quads touch."""
    return all(
        max(p[axis] for p in a) >= min(p[axis] for p in b)
        and max(p[axis] for p in b) >= min(p[axis] for p in a)
        for axis in (0, 1)
    )


def box_overlap(truth: Sequence[Quad], read: Sequence[Quad], threshold: float = 0.7) -> Overlap:
    """One page's boxes, paired one to one, best pair first, where IoU is `threshold` or more.

    The sum's `f1` is what detection papers call H-mean.
    """
    pairs = [
        (value, i, j)
        for i, expected in enumerate(truth)
        for j, actual in enumerate(read)
        if (value := iou(expected, actual)) >= threshold
    ]
    taken_truth: set[int] = set()
    taken_read: set[int] = set()
    for _, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if i not in taken_truth and j not in taken_read:
            taken_truth.add(i)
            taken_read.add(j)
    return Overlap(len(taken_truth), len(truth), len(read))


def bootstrap_bound(
    parts: Sequence[float],
    wholes: Sequence[float],
    side: Literal["lower", "upper"],
    *,
    confidence: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> float:
    """One-sided percentile bootstrap bound of sum(parts) / sum(wholes).

    One entry per sampled unit, a line or a page: errors over lengths for an error rate; the
    difference of two engines' errors over lengths for a loss; twice the pairs over the number of
    boxes on both sides for H-mean. Units are drawn with replacement, `rounds` times. Efron and
    Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.

    Raises ValueError when the two differ in length or hold nothing to divide by.
    """
    top, bottom = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    if top.shape != bottom.shape or not bottom.any():
        raise ValueError("a bootstrap bound needs as many parts as wholes, and a whole above 0")
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(top), np.full(len(top), 1 / len(top)), size=rounds)
    sums = draws @ bottom
    ratios = (draws @ top)[sums > 0] / sums[sums > 0]
    level = confidence if side == "upper" else 1 - confidence
    return float(np.quantile(ratios, level))
