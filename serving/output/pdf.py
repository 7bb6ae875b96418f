"""Pages as a searchable PDF: where each line's words stand, for `imaging/pdf.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from serving.imaging.formats import Data
from serving.imaging.sandbox.protocol import PageText, TextRun
from serving.output.layout import DESCENT, pieces, space_width
from serving.output.pages import ReadPage
from serving.types import Line, Point

if TYPE_CHECKING:
    from serving.imaging.decode import Decoder

_MIN_WIDTH = 0.1
"""Pixels of a piece; the words of a line may overlap a little."""


def searchable_pdf(pages: Sequence[ReadPage], documents: Sequence[Data], decoder: Decoder) -> bytes:
    """The documents as one PDF, in which the text of the pages can be found and selected.

    Raises Undecodable, for a PDF that is encrypted or signed too.
    """
    texts: list[list[PageText]] = [[] for _ in documents]
    for read in pages:
        # A page whose own text was taken has that text already.
        lines = read.page.lines if read.page.source == "ocr" else ()
        runs = [run for line in lines if (run := _run(line)) is not None]
        texts[read.image].append(
            PageText(
                index=read.number,
                width=read.page.width,
                height=read.page.height,
                dpi=read.dpi,
                runs=runs,
            )
        )
    return decoder.searchable(documents, texts)


def _run(line: Line) -> TextRun | None:
    """The line along its baseline; None where it has no extent.

    A word begins where it stands, and reaches to the next one or to the space before that: so no
    reader sees a gap within a word, nor misses one between two. Wide spaces go to the words.
    """
    a, b, c, d = (complex(*corner) for corner in line.box)
    across, height = (b + c - a - d) / 2, (abs(a - d) + abs(b - c)) / 2
    found = list(pieces(line))
    if abs(across) < 1 or height < 1 or not found:
        return None
    direction = across / abs(across)

    def along(high: Point, low: Point) -> float:
        """How far the middle of a word's side is from where the line begins."""
        return ((complex(*high) + complex(*low) - a - d) / 2 * direction.conjugate()).real

    starts: list[float] = []
    end = 0.0
    for piece in found:
        left, right, low_right, low_left = piece.box
        start = end if piece.text.isspace() and starts else along(left, low_left)
        starts.append(max(start, starts[-1] + _MIN_WIDTH) if starts else start)
        end = along(right, low_right)
    for index in range(1, len(found) - 1):
        if found[index].text.isspace():
            gap = starts[index + 1] - starts[index]
            more = (gap - space_width(gap, height)) / 2
            starts[index], starts[index + 1] = starts[index] + more, starts[index + 1] - more
    ends = [*starts[1:], max(end, starts[-1] + _MIN_WIDTH)]
    origin = d + DESCENT * (a - d) + starts[0] * direction
    return TextRun(
        start=(origin.real, origin.imag),
        direction=(direction.real, direction.imag),
        height=height,
        pieces=[
            (piece.text, round(stop - start, 3))
            for piece, start, stop in zip(found, starts, ends, strict=True)
        ],
    )
