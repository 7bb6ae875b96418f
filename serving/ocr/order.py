"""Reading order of the lines of a page: PaddleX's rows, or along columns. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.ocr.skew import noise, skew
from serving.types import Line, QuadArray

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_SAME_ROW = 0.5
"""Lines of one row differ in y by less than this share of the smaller height, or by 10 px."""

# Lengths below are in heights of a line. A detected line is about 1.4 em high.
_BODY = 0.35
"""From a line's middle up and down: what of it counts when lines of neighbouring rows overlap."""
_GUTTER = 0.5
"""Least white space between columns."""
_SLACK = 2
"""How far a line may reach into a gutter or across it, but by no more than an eighth of itself."""
_FAR = 3
"""Lines after more white space than that are below the columns."""
_ALIGNED = 0.25
"""Lines side by side whose middles differ by less are on one baseline."""
_FULL = 0.8
"""Share of its column's width from which a line is full, as most lines of a paragraph are."""
_ROOM = 0.65
"""The same share of the space up to the next line on its right."""
_MIN_WIDTH = 8
"""Width of the narrowest full line beside another; cells with amounts and dates are narrower ..."""
_MIN_WIDTH_ALONE = 4
"""... and of one that is not on another's baseline."""
_MAX_CELL = 10
"""Width of most cells. Short lines that are wider are rather the last ones of paragraphs."""

# A full line counts 1 for columns; a short one on another's baseline counts against them:
_CELL = 1.5
_SHORT = 0.5
_TABLE = 5
"""So much against columns is a table; the columns above and below it are apart."""
_MIN_SCORE = 4
_MIN_LINES = 3
"""Full lines of each column."""
_MIN_FULL = 0.4
"""Share of full lines in each column."""
_MAX_CELL_LINES = 4
"""Mean number of lines in the cells of a table of texts."""
_MAX_CANDIDATES = 32
"""Gutters that are tried, those first that have most lines at their right."""


def reading_order(quads: QuadArray) -> QuadArray:
    """Sort (N, 4, 2) by rows, top to bottom, each from left to right.

    As PaddleX's SortQuadBoxes: by (y, x), then an insertion sort by x among neighbours on one row.
    There y is the top, and 10 px make a row; here y is the middle, and a row follows the lines'
    height and the page's skew: a table at 300 dpi, skewed by half a degree, is read row by row.
    """
    return quads[_Lines.of(quads).by_rows(np.arange(len(quads)))]


def by_columns(lines: Iterable[Line]) -> tuple[Line, ...]:
    """The lines of a page in `column_order`."""
    lines = tuple(lines)
    quads = np.array([line.quad for line in lines], np.int32).reshape(-1, 4, 2)
    return tuple(lines[index] for index in column_order(quads))


def column_order(quads: QuadArray) -> list[int]:
    """Indices of (N, 4, 2) by columns where the page has some, else as `reading_order` has them.

    A recursive XY-cut (Nagy and Seth, "Hierarchical representation of optically scanned documents",
    ICPR 1984) of the lines' boxes, turned upright by the page's skew. It cuts first where most
    text is along a gutter: white space from one line across it to the next (Breuel, "Two geometric
    algorithms for layout analysis", DAS 2002). What is above is read first, then the columns, then
    what is below. Lines of paragraphs are as wide as their column; where lines side by side share
    baselines and are not, the gutter is one of a table or a form, which is read by rows. So is a
    table whose cells have several lines: its rows begin together, though not all cells are full.
    """
    if not len(quads):
        return []
    lines = _Lines.of(quads)
    cutter = _Cutter(lines)
    order: list[int] = []
    parts = [np.arange(len(quads))]
    while parts:
        part = parts.pop()
        inner = cutter.cut(part)
        if len(inner) > 1:
            parts += inner[::-1]
        else:
            order += lines.by_rows(part)
    return order


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines in the coordinates of the upright page; each field has shape (N,)."""

    start: Floats
    """x of the middle of the left side."""
    level: Floats
    """y of the same point."""
    height: Floats
    left: Floats
    right: Floats
    middle: Floats
    """y of the middle."""

    @classmethod
    def of(cls, quads: QuadArray) -> _Lines:
        side = quads[:, 3] - quads[:, 0]
        angle = skew(quads) or 0.0
        if abs(angle) <= noise(quads):  # or a row of short words would be torn apart
            angle = 0.0
        points = np.concatenate([quads, (quads[:, 0] + side / 2)[:, None]], axis=1)
        x, y = points[..., 0], points[..., 1]
        across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        return cls(
            start=across[:, 4],
            level=down[:, 4],
            height=np.hypot(*side.T),
            left=across[:, :4].min(axis=1),
            right=across[:, :4].max(axis=1),
            middle=down[:, :4].mean(axis=1),
        )

    def by_rows(self, part: Indices) -> list[int]:
        """These, by rows."""
        order: list[int] = part[np.lexsort((self.start[part], self.level[part]))].tolist()
        heights, middles, lefts = self.height.tolist(), self.level.tolist(), self.start.tolist()
        for i in range(1, len(order)):
            j = i
            while j > 0:
                line, previous = order[j], order[j - 1]
                row = max(10, _SAME_ROW * min(heights[line], heights[previous]))
                if abs(middles[line] - middles[previous]) >= row or lefts[line] >= lefts[previous]:
                    break
                order[j], order[j - 1] = previous, line
                j -= 1
        return order


@dataclass(frozen=True, slots=True)
class _Beside:
    """What stands on one side of each line, in its row; each field has shape (N,)."""

    edge: Floats
    """x where the nearest line there ends; infinite where there is none."""
    offset: Floats
    """By how much the best aligned line there is higher or lower, in heights; infinite as above."""

    @classmethod
    def both(cls, lines: _Lines) -> tuple[_Beside, _Beside]:
        """On the left and on the right."""
        count = len(lines.left)
        left = cls(np.full(count, -np.inf), np.full(count, np.inf))
        right = cls(np.full(count, np.inf), np.full(count, np.inf))
        order = np.argsort(lines.middle)
        middle = lines.middle[order]
        height = np.minimum(lines.height, 3 * np.median(lines.height))[order]
        for step in range(1, count):
            distance = middle[step:] - middle[:-step]
            near = np.flatnonzero(distance < _BODY * (height[step:] + height[:-step]))
            if not len(near) and distance.min() >= 2 * _BODY * height.max():
                break
            lower = np.minimum(height[near], height[near + step])
            offset = distance[near] / np.maximum(lower, 1)
            for a, b in ((order[near], order[near + step]), (order[near + step], order[near])):
                is_beside = lines.right[a] <= lines.left[b]
                a, b, apart = a[is_beside], b[is_beside], offset[is_beside]
                left.edge[b] = np.maximum(left.edge[b], lines.right[a])
                right.edge[a] = np.minimum(right.edge[a], lines.left[b])
                left.offset[b] = np.minimum(left.offset[b], apart)
                right.offset[a] = np.minimum(right.offset[a], apart)
        return left, right


@dataclass(frozen=True, slots=True)
class _Gutter:
    """White space between two columns."""

    score: float
    x: float
    """Its right edge."""
    top: float
    bottom: float
    """The middles of lines beside it are between these."""


class _Cutter:
    """Cuts a page, or a part of it, into parts that are read one after the other."""

    def __init__(self, lines: _Lines) -> None:
        self.lines = lines
        self.beside = _Beside.both(lines)
        self.unit = max(1.0, float(np.median(lines.height)))
        """The height of a line."""

    def cut(self, part: Indices) -> list[Indices]:
        """The parts in reading order; one if there is no gutter.

        The best gutters cut together, down to the first that reaches beside a better one: to cut by
        one at a time would judge those that remain once more for each.
        """
        gutters: list[_Gutter] = []
        for gutter in sorted(self._gutters(part), key=lambda gutter: -gutter.score):
            if any(gutter.top <= other.bottom and gutter.bottom >= other.top for other in gutters):
                break
            gutters.append(gutter)
        parts = []
        below, middle = part, self.lines.middle
        for gutter in sorted(gutters, key=lambda gutter: gutter.top):
            parts.append(below[middle[below] < gutter.top])
            below = below[middle[below] >= gutter.top]
            beside = below[middle[below] <= gutter.bottom]
            parts += self._rows_of_cells(self._columns(beside, gutter))
            below = below[middle[below] > gutter.bottom]
        return [part for part in (*parts, below) if len(part)]

    def _columns(self, part: Indices, gutter: _Gutter) -> list[Indices]:
        """All columns that are as tall as the part."""
        is_right = self.lines.left[part] >= gutter.x - self._reach(part)
        columns = []
        for side in (part[~is_right], part[is_right]):
            inner = max(self._gutters(side), key=lambda gutter: gutter.score, default=None)
            middle = self.lines.middle[side]
            if inner and inner.top <= middle.min() and inner.bottom >= middle.max():
                columns += self._columns(side, inner)
            else:
                columns.append(side)
        return columns

    def _rows_of_cells(self, columns: list[Indices]) -> list[Indices]:
        """The columns, or cell by cell those of a table whose cells have several lines."""
        part = np.concatenate(columns)
        white = self._white(columns)
        breaks = np.mean(self._bands(part, white), axis=0)
        max_bands = max(len(self._bands(column, white)[0]) for column in columns)
        rows = [np.searchsorted(breaks, self.lines.middle[column]) for column in columns]
        counts = np.array([np.bincount(row, minlength=len(breaks) + 1) for row in rows])
        uneven = np.count_nonzero(np.ptp(counts, axis=0))
        starts = np.full(counts.shape, np.nan)
        for start, column, row in zip(starts, columns, rows, strict=True):
            np.fmin.at(start, row, self.lines.middle[column])
        spread = np.nanmax(starts, axis=0) - np.nanmin(starts, axis=0)
        is_even = (spread < _ALIGNED * self.unit) & (np.count_nonzero(counts, axis=0) > 1)
        if (
            len(breaks) < max(_MIN_LINES, _FULL * max_bands)
            or uneven < counts.shape[1] / 3
            or is_even.mean() < _FULL
            or counts.mean() > _MAX_CELL_LINES
        ):
            return columns
        return [
            column[row == index]
            for index in range(len(breaks) + 1)
            for column, row in zip(columns, rows, strict=True)
        ]

    def _gutters(self, part: Indices) -> list[_Gutter]:
        """All stretches of white space along which lines are those of columns."""
        if len(part) < 2 * _MIN_LINES:
            return []
        lines, (on_left, on_right) = self.lines, self.beside
        gap, slack = _GUTTER * self.unit, _SLACK * self.unit
        reach = self._reach(part)
        left, right = lines.left[part], lines.right[part]
        has_gap = (on_left.edge[part] >= left.min()) & (left - on_left.edge[part] >= gap)
        edges = np.sort(left[has_gap])
        if len(edges) < _MIN_LINES:
            return []
        first = np.flatnonzero(np.diff(edges // (self.unit / 2), prepend=-np.inf))
        support = np.searchsorted(edges, edges[first] + 4 * self.unit) - first
        first = first[support >= _MIN_LINES]
        best = np.argsort(-support[support >= _MIN_LINES], kind="stable")[:_MAX_CANDIDATES]
        found = []
        for x in edges[first[best]]:
            is_right = left >= x - reach
            is_left = ~is_right & (right <= x + reach)
            section = self._sections(part, ~(is_left | is_right))
            along = is_left & (on_right.edge[part] >= x - slack)
            along |= is_right & (on_left.edge[part] <= x + slack)
            by_section = np.argsort(section, kind="stable")
            for here in np.split(by_section, np.flatnonzero(np.diff(section[by_section])) + 1):
                sides = [part[here[(side & along)[here]]] for side in (is_left, is_right)]
                if section[here[0]] >= 0 and min(map(len, sides)) >= _MIN_LINES:
                    found.append(self._judge(part[here], sides, x))
        return [gutter for gutter in found if gutter is not None]

    def _reach(self, part: Indices) -> Floats:
        """By how much each line may reach across a gutter; a short one hardly."""
        width = self.lines.right[part] - self.lines.left[part]
        return np.clip(width / 8, self.unit / 4, _SLACK * self.unit)

    def _sections(self, part: Indices, crossing: Any) -> Indices:
        """For each line, between which lines across a gutter it is; -1 if it is in their rows."""
        middle, half = self.lines.middle[part], self.lines.height[part] / 2
        across = np.flatnonzero(crossing)
        across = across[np.argsort(middle[across])]
        bottoms = np.maximum.accumulate(middle[across] + half[across])
        tops = np.minimum.accumulate((middle[across] - half[across])[::-1])[::-1]
        section = np.searchsorted(middle[across], middle)
        beside = middle < np.concatenate([[-np.inf], bottoms])[section]
        beside |= middle > np.concatenate([tops, [np.inf]])[section]
        section[crossing | beside] = -1
        return section

    def _judge(self, part: Indices, sides: list[Indices], x: float) -> _Gutter | None:
        """The stretch of a gutter where the lines along it, (left, right), are those of columns."""
        scores = [
            self._scores(side, beside.offset[side])
            for side, beside in zip(sides, self.beside[::-1], strict=True)
        ]
        along, score = np.concatenate(sides), np.concatenate(scores)
        if score[score > 0].sum() < _MIN_SCORE:
            return None
        top, bottom = self._bands(part, self._white(sides))
        breaks = (top + bottom) / 2
        blocks = np.searchsorted(breaks, self.lines.middle[along])
        total = np.bincount(blocks, score, len(breaks) + 1)
        first, last, best = _best_run(total.tolist())
        if best < _MIN_SCORE:
            return None
        while first < last - 1 and total[first] <= 0 and bottom[first] - top[first] > self.unit:
            first += 1  # the page's header
        middle = self.lines.middle[part]
        counts = np.bincount(np.searchsorted(breaks, middle), minlength=len(total))
        for index in range(last, len(total)):  # the rest of a column that is not along the gutter
            if total[index] < 0 or bottom[index - 1] - top[index - 1] > _FAR * self.unit:
                break
            last = index + 1 if counts[index] >= _MIN_LINES else last
        edges = np.concatenate([[middle.min()], breaks, [middle.max()]])
        start, end = edges[first], edges[last]
        for side, points in zip(sides, scores, strict=True):
            middle = self.lines.middle[side]
            is_here = (middle >= start) & (middle <= end)
            full = np.count_nonzero(points[is_here] > 0)
            if full < max(_MIN_LINES, _MIN_FULL * np.count_nonzero(is_here)):
                return None
        return _Gutter(best, x, start, end)

    def _scores(self, side: Indices, offset: Floats) -> Floats:
        """What each line on one side says for columns, or against them."""
        left, right, height = (
            of[side] for of in (self.lines.left, self.lines.right, self.lines.height)
        )
        width, is_aligned = right - left, offset < _ALIGNED
        room = np.minimum(self.beside[1].edge[side], np.quantile(right, 0.95)) - left
        full = np.maximum(_ROOM * room, _FULL * np.quantile(width, _FULL))
        full = np.maximum(full, np.where(is_aligned, _MIN_WIDTH, _MIN_WIDTH_ALONE) * height)
        against = np.where(width < _MAX_CELL * height, _CELL, _SHORT)
        return np.where(width >= full, 1.0, np.where(is_aligned, -against, 0.0))

    def _white(self, columns: list[Indices]) -> float:
        """The least white space between lines of these columns that is more than leading."""
        steps = np.concatenate([np.diff(np.sort(self.lines.middle[column])) for column in columns])
        steps = steps[steps > self.unit / 2]
        leading = float(np.quantile(steps, 0.3)) if len(steps) else self.unit
        return max(1.35 * leading - 2 * _BODY * self.unit, 0.3 * self.unit)

    def _bands(self, part: Indices, white: float) -> tuple[Floats, Floats]:
        """Top and bottom of the white bands across a part, from the top."""
        order = part[np.argsort(self.lines.middle[part])]
        middle, body = self.lines.middle[order], _BODY * self.lines.height[order]
        top = np.maximum.accumulate(middle + body)[:-1]
        bottom = np.minimum.accumulate((middle - body)[::-1])[::-1][1:]
        is_band = bottom - top >= white
        return top[is_band], bottom[is_band]


def _best_run(scores: list[float]) -> tuple[int, int, float]:
    """Start, end and sum of the best run of blocks; a run ends where a table begins."""
    found = (0, 0, 0.0)
    start = end = 0
    total = best = 0.0
    after_table = False
    for index, score in enumerate(scores):
        if after_table and score <= 0:
            start = end = index + 1
            continue
        after_table = False
        total += score
        if total > best:
            best, end = total, index + 1
        elif total < best - _TABLE:
            found = max(found, (start, end, best), key=lambda run: run[2])
            start = end = index + 1
            total = best = 0.0
            after_table = True
    return max(found, (start, end, best), key=lambda run: run[2])
