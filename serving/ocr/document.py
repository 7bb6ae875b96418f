"""The document preprocessor: turns a page upright, flattens it, and maps lines back to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from serving.config.model import PageOrientationModel, UnwarpingModel
from serving.engines.base import Engine
from serving.imaging.resize import resize
from serving.ocr.ctc import has_cjk
from serving.ocr.skew import Affine
from serving.types import Image, Line, Page, Quad

Grid = npt.NDArray[np.float32]
"""(H, W, 2): where each pixel of a flattened page is on the page before, (x, y) from -1 to 1."""

_STRIP = 8
"""Long side over short side up to which a whole page is scaled for the classifier, which looks at
the centre."""
_SURE = 0.8
"""Score from which a line counts as read right: upside down and sideways lines have less."""


@dataclass(frozen=True, slots=True)
class PageOrienter:
    """A classifier of a page's turn. Thread-safe."""

    engine: Engine
    model: PageOrientationModel

    def angle(self, page: Image) -> int:
        """By how many degrees the page (H, W, 3) is turned clockwise: 0, 90, 180 or 270."""
        (probabilities,) = self.engine.run(self.fit(page)[None])
        return self.model.angles[int(probabilities[0].argmax())]

    def fit(self, page: Image) -> Image:
        """The centre of the page at the model's scale."""
        model = self.model
        page = _centre(page)
        scale = model.short_side / min(page.shape[:2])
        scaled = resize(page, *(round(side * scale) for side in page.shape[:2]))
        top, left = (scaled.shape[0] - model.height) // 2, (scaled.shape[1] - model.width) // 2
        return scaled[top : top + model.height, left : left + model.width]


@dataclass(frozen=True, slots=True)
class Unwarper:
    """A model that flattens the photo of a page (UVDoc: Verhoeven et al., 2023). Thread-safe."""

    engine: Engine
    model: UnwarpingModel

    def flatten(self, page: Image) -> tuple[Image, Grid | None]:
        """The flat page, and where its pixels came from, if the graph tells."""
        flat, *grid = self.engine.run(page[None])
        return flat[0], grid[0][0] if grid else None


def _centre(page: Image) -> Image:
    """The page; of a strip, which at the model's scale could fill memory, the middle."""
    height, width = (min(side, _STRIP * min(page.shape[:2])) for side in page.shape[:2])
    top, left = (page.shape[0] - height) // 2, (page.shape[1] - width) // 2
    return page[top : top + height, left : left + width]


def turn_upright(page: Image, angle: int) -> Image:
    """The page (H, W, 3) turned back by `angle` degrees, counter-clockwise, a multiple of 90."""
    return np.ascontiguousarray(np.rot90(page, angle // 90))


def upright_characters(page: Page) -> int:
    """How many of its characters stand upright and are read for sure."""
    lines = (page.as_read or page).lines
    return sum(len(line.text) for line in lines if not line.turn and line.score >= _SURE)


def reads_upright(page: Page) -> bool:
    """Whether half of its characters stand upright and are read for sure."""
    return 2 * upright_characters(page) >= sum(len(line.text) for line in page.lines)


def turn_of_lines(page: Page) -> int:
    """The turn of most characters that are read for sure: 0, 90, 180 or 270.

    Sideways lines with CJK characters do not count: they may be written in columns.
    """
    counts = Counter({0: 0})
    for line in (page.as_read or page).lines:
        if line.score >= _SURE and (line.turn % 180 == 0 or not has_cjk(line.text)):
            counts[line.turn] += len(line.text)
    return max(counts, key=lambda turn: counts[turn])


def on_sent_page(page: Page, width: int, height: int, angle: int, grid: Grid | None = None) -> Page:
    """The page as it was read, mapped to the page as it was sent, `width` x `height`.

    angle: by which the sent page is turned clockwise. grid: of the page after it was turned back.
    """
    if not angle and grid is None:
        return replace(page, width=width, height=height)
    turned = (height, width) if angle % 180 else (width, height)

    def point(x: int, y: int) -> tuple[int, int]:
        if grid is not None:
            x, y = _before_flattening(x, y, grid, *turned)
        return {0: (x, y), 90: (width - y, x), 180: (width - x, height - y), 270: (y, height - x)}[
            angle
        ]

    return Page(
        width=width,
        height=height,
        lines=tuple(_mapped(line, point, angle) for line in page.lines),
        timing=page.timing,
        hint=page.hint,
        angle=angle,
        as_read=page,
    )


def on_skewed_page(
    lines: Iterable[Line], affine: Affine, width: int, height: int
) -> tuple[Line, ...]:
    """Lines of a page that was turned back, on the skewed page itself, `width` x `height`."""

    def point(x: int, y: int) -> tuple[int, int]:
        across, down = affine @ (x, y, 1)
        return min(max(round(across), 0), width), min(max(round(down), 0), height)

    return tuple(_mapped(line, point) for line in lines)


def _before_flattening(x: int, y: int, grid: Grid, width: int, height: int) -> tuple[int, int]:
    rows, columns = grid.shape[:2]
    there = grid[min(y, rows - 1), min(x, columns - 1)]
    across, down = (np.clip(there, -1, 1) + 1) / 2 * (width, height)
    return round(float(across)), round(float(down))


def _mapped(line: Line, point: Callable[[int, int], tuple[int, int]], angle: int = 0) -> Line:
    def corners(quad: Quad) -> Quad:
        a, b, c, d = (point(*corner) for corner in quad)
        return a, b, c, d

    quad = corners(line.quad)
    first = -(angle // 90) % 4  # the corner that is at the top left of the sent page
    a, b, c, d = quad[first:] + quad[:first]
    return replace(
        line,
        quad=(a, b, c, d),
        turn=(line.turn + angle) % 360,
        words=tuple(replace(word, box=corners(word.box)) for word in line.words),
    )
