"""How well pages were read: F1 of words and characters, error rates, agreement of boxes.

F1 is micro-averaged: counts are added over pages, then divided once. Texts are compared as they
are: case kept, nothing normalised.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import shapely
from rapidfuzz.distance import Levenshtein

Item = TypeVar("Item")
Polygon = Sequence[tuple[float, float]]
"""At least three corners (x, y), in pixels."""


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


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Insertions, deletions and substitutions between two texts or lists of words (Levenshtein)."""
    return Levenshtein.distance(a, b)


def character_errors(truth: str, read: str) -> tuple[int, int]:
    """Edit distance of one line and the length of its truth."""
    return edit_distance(truth, read), len(truth)


def box_pairs(
    truth: Sequence[Polygon], read: Sequence[Polygon], threshold: float
) -> list[tuple[int, int]]:
    """One page's boxes, paired one to one where IoU exceeds `threshold`; indices into both.

    In the order of the truth, each with the first free box of the reading, as PaddleOCR's
    DetectionIoUEvaluator and ICDAR 2015's pair them. A polygon that crosses itself has no pair.
    """
    expected, found = _polygons(truth), _polygons(read)
    j, i = shapely.STRtree(expected).query(found, predicate="intersects")
    common = shapely.area(shapely.intersection(expected[i], found[j]))
    hits = common > threshold * (shapely.area(expected[i]) + shapely.area(found[j]) - common)
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for first, second in sorted(zip(i[hits].tolist(), j[hits].tolist(), strict=True)):
        if first not in pairs and second not in taken:
            pairs[first] = second
            taken.add(second)
    return list(pairs.items())


def not_ignored(
    items: Sequence[Item], boxes: Sequence[Polygon], ignored: Sequence[Polygon]
) -> list[Item]:
    """The items without those of whose box more than half lies in one of the ignored regions."""
    inner, outer = _polygons(boxes)[:, None], _polygons(ignored)[None]
    common = shapely.area(shapely.intersection(inner, outer))
    is_in = (common > 0.5 * shapely.area(inner)).any(axis=1)
    return list(itertools.compress(items, ~is_in))


def box_overlap(
    truth: Sequence[Polygon],
    read: Sequence[Polygon],
    threshold: float = 0.7,
    ignored: Sequence[Polygon] = (),
) -> Overlap:
    """One page's boxes that pair, and their numbers; its sum's `f1` is what papers call H-mean.

    As in PaddleOCR's metric, boxes read in an ignored region and polygons that cross themselves
    are not counted.
    """
    counted = not_ignored(read, read, ignored)
    whole, part = (sum(shape is not None for shape in _polygons(side)) for side in (truth, counted))
    return Overlap(len(box_pairs(truth, counted, threshold)), whole, part)


def _polygons(boxes: Sequence[Polygon]) -> npt.NDArray[np.object_]:
    """One shapely.Polygon per box; None, which shapely skips, where it crosses itself."""
    shapes = np.array([shapely.Polygon(box) for box in boxes], np.object_)
    shapes[~shapely.is_valid(shapes)] = None
    return shapes


_MAX_UNITS = 4096
"""More are added up in so many groups, each a sample of all: that many draws take seconds."""


def bootstrap(
    parts: npt.ArrayLike, wholes: npt.ArrayLike, *, rounds: int = 2000, seed: int = 0
) -> npt.NDArray[np.float64]:
    """sum(parts) / sum(wholes) of `rounds` samples of the units, drawn with replacement.

    parts, wholes: (N, ...), one entry per unit, a line or a page, as for several systems that read
    the same units: a sample has the same units for all. Returns (rounds, ...), NaN where a sample
    has nothing to divide by. Efron and Tibshirani, "An Introduction to the Bootstrap" (1993),
    chapter 13.

    Raises ValueError when the two differ in shape or hold nothing to divide by.
    """
    top, bottom = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    if top.shape != bottom.shape or not bottom.any():
        raise ValueError("a bootstrap needs as many parts as wholes, and a whole above 0")
    rng = np.random.default_rng(seed)
    if len(top) > _MAX_UNITS:
        order = rng.permutation(len(top))
        starts = np.linspace(0, len(top), _MAX_UNITS, endpoint=False).astype(int)
        top, bottom = (np.add.reduceat(side[order], starts) for side in (top, bottom))
    draws = rng.multinomial(len(top), np.full(len(top), 1 / len(top)), size=rounds).astype(float)
    with np.errstate(invalid="ignore"):  # 0 / 0
        return np.asarray(np.tensordot(draws, top, 1) / np.tensordot(draws, bottom, 1))


def bootstrap_bound(
    parts: Sequence[float],
    wholes: Sequence[float],
    side: Literal["lower", "upper"],
    *,
    confidence: float = 0.95,
) -> float:
    """One-sided percentile bound of sum(parts) / sum(wholes); see `bootstrap`.

    Errors over lengths for an error rate; the difference of two engines' errors over lengths for a
    loss; twice the pairs over the number of boxes on both sides for H-mean.
    """
    level = confidence if side == "upper" else 1 - confidence
    return float(np.nanquantile(bootstrap(parts, wholes), level))
