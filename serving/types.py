"""Pages, lines and words: the values that every stage passes on. Frozen and picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""(H, W, 3), BGR."""

Point = tuple[int, int]
"""(x, y) in pixels of the upright page."""

Quad = tuple[Point, Point, Point, Point]
"""Four corners, clockwise on the page, starting at the top left."""

Dpi = tuple[float, float]
"""Dots per inch, across and down."""

QuadArray = npt.NDArray[np.int32]
"""The same as an array: (4, 2), or (N, 4, 2) for several."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a line."""

    text: str
    box: Quad
    """Corners clockwise from the word's own top left."""
    score: float = 0.0
    """Mean probability of the characters, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text on a page."""

    text: str
    score: float
    """Mean probability of the characters, 0 to 1."""
    quad: Quad
    """Corners as detected: clockwise, from the page's top left."""
    turn: int = 0
    """Clockwise rotation of the line on the page, in degrees: 0, 90, 180 or 270."""
    words: tuple[Word, ...] = ()
    """Filled when `return_word_box` is set; their texts concatenate to the line's."""

    @property
    def box(self) -> Quad:
        """Corners clockwise from the line's own top left, where its text starts."""
        first = self.turn // 90
        a, b, c, d = self.quad[first:] + self.quad[:first]
        return a, b, c, d


@dataclass(frozen=True, slots=True)
class PaddleXResult:
    """What PaddleX made of a page, in a pipeline other than plain OCR."""

    name: str
    """Of the list of such results in the answer of PaddleX's serving, as sealRecResults."""
    content: Mapping[str, Any]
    """Its prunedResult, as plain values."""


@dataclass(frozen=True, slots=True)
class Page:
    """The text of one page. A page without text has no lines; that is not an error."""

    width: int
    height: int
    lines: tuple[Line, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Milliseconds per stage."""
    source: Literal["ocr", "pdf_text"] = "ocr"
    """Where the lines are from: read from its pixels, or the PDF's own text."""
    hint: str = ""
    """Why text may be missing, and what to do; empty if nothing suggests that."""
    angle: int = 0
    """By how many degrees the page was turned clockwise: 0, 90, 180 or 270."""
    as_read: Page | None = None
    """The page turned upright and flattened, with its lines; None where it was read as it was."""
    paddlex: PaddleXResult | None = None
    """Set where PaddleX ran another pipeline than plain OCR; such a page has no lines."""

    def without_words(self) -> Page:
        """The same, with lines alone."""
        return replace(self, lines=tuple(replace(line, words=()) for line in self.lines))
