"""A page to write on that records each line of text and its position."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from serving.types import Quad

Colour = tuple[int, int, int]

INK: Colour = (24, 24, 30)

_NEVER_FIRST = frozenset("，。；：！？）》、%")


@dataclass(frozen=True, slots=True)
class TruthLine:
    """One line of text as it was drawn."""

    text: str
    quad: Quad
    """Corners of the ink with a small margin: clockwise, from the page's top left."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A rendered page, or a crop of a single line."""

    name: str
    image: NDArray[np.uint8]
    """(H, W, 3), BGR."""
    lines: tuple[TruthLine, ...]
    degraded: bool
    """Whether blur, noise, skew, low resolution or hard compression was laid over it."""


class Canvas:
    """A page of `width` by `height` pixels. Colours are RGB."""

    def __init__(self, width: int, height: int, paper: Colour) -> None:
        self.width = width
        self.height = height
        self.paper = paper
        self.lines: list[TruthLine] = []
        self._image = Image.new("RGB", (width, height), paper)
        self.pen = ImageDraw.Draw(self._image)

    def write(self, text: str, x: float, y: float, font: FreeTypeFont, ink: Colour = INK) -> float:
        """Draws `text` with its baseline's left end at (x, y); returns where it ends in x.

        A line that would leave the sheet is not drawn: the truth holds what can be read.
        """
        left, top, right, bottom = self.pen.textbbox((x, y), text, font=font, anchor="ls")
        margin = max(1, round(font.size * 0.06))
        left, top = round(left - margin), round(top - margin)
        right, bottom = round(right + margin), round(bottom + margin)
        if left >= 0 and top >= 0 and right < self.width and bottom < self.height:
            self.pen.text((x, y), text, font=font, fill=ink, anchor="ls")
            quad: Quad = ((left, top), (right, top), (right, bottom), (left, bottom))
            self.lines.append(TruthLine(text, quad))
        return x + font.getlength(text)

    def write_right(
        self, text: str, x: float, y: float, font: FreeTypeFont, ink: Colour = INK
    ) -> None:
        """Draws `text` so that it ends at x."""
        self.write(text, x - font.getlength(text), y, font, ink)

    def write_centre(
        self, text: str, x: float, y: float, font: FreeTypeFont, ink: Colour = INK
    ) -> None:
        """Draws `text` with its middle at x."""
        self.write(text, x - font.getlength(text) / 2, y, font, ink)

    def write_block(
        self, text: str, x: float, y: float, font: FreeTypeFont, width: float, leading: float
    ) -> float:
        """Draws a paragraph `width` wide; returns the baseline after its last line."""
        for line in wrap(text, font, width):
            self.write(line, x, y, font)
            y += leading
        return y

    def image(self) -> NDArray[np.uint8]:
        """The sheet as (H, W, 3), BGR, uint8."""
        return np.ascontiguousarray(np.asarray(self._image)[:, :, ::-1])


def wrap(text: str, font: FreeTypeFont, width: float) -> list[str]:
    """Breaks a paragraph at spaces, or, where it has none, between any two characters."""
    spaced = text.count(" ") * 12 > len(text)
    lines, line = [], ""
    for piece in text.split(" ") if spaced else text:
        longer = f"{line} {piece}" if spaced and line else line + piece
        if line and font.getlength(longer) > width and piece not in _NEVER_FIRST:
            lines.append(line)
            longer = piece
        line = longer
    return [line.strip() for line in [*lines, line] if line.strip()]
