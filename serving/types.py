"""What a reading is made of. Plain values: frozen, comparable, picklable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Point = tuple[int, int]
"""(x, y) in pixels of the upright page."""

Quad = tuple[Point, Point, Point, Point]
"""Four corners, clockwise on the page, starting at the top left."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a line."""

    text: str
    box: Quad
    """Corners clockwise from the word's own top left."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of text on a page."""

    text: str
    score: float
    """Mean probability of the characters, 0 to 1."""
    quad: Quad
    """Corners as detected: clockwise, from the page's top left."""
    turn: int = 0
    """Degrees, clockwise on the page, by which the line is turned: 0, 90, 180 or 270."""
    words: tuple[Word, ...] = ()
    """Where `return_word_box` asks for them. Their texts together are the line's."""

    @property
    def box(self) -> Quad:
        """Corners clockwise from the line's own top left, where its first character is."""
        first = self.turn // 90
        a, b, c, d = self.quad[first:] + self.quad[:first]
        return a, b, c, d


@dataclass(frozen=True, slots=True)
class Page:
    """One page, read. A page without text has no lines; that is not an error."""

    width: int
    height: int
    lines: tuple[Line, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict, compare=False)
    """Milliseconds by stage."""
