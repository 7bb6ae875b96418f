"""Pages as a searchable PDF: where each line's words stand, for `imaging/pdf.py`."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot
from typing import TYPE_CHECKING

from serving.imaging.formats import Data
from serving.imaging.sandbox.protocol import PageText, TextRun
from serving.output.layout import DESCENT, pieces
from serving.output.pages import ReadPage
from serving.types import Line

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
    reader sees a gap within a word, nor misses one between two.
    """
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = line.box
    across = (bx + cx - ax - dx) / 2, (by + cy - ay - dy) / 2
    length = hypot(*across)
    height = (hypot(ax - dx, ay - dy) + hypot(bx - cx, by - cy)) / 2
    if length < 1 or height < 1:
        return None
    direction = across[0] / length, across[1] / length
    found = list(pieces(line))
    starts: list[float] = []
    end = 0.0
    for piece in found:
        sides = [
            ((p[0] + q[0] - ax - dx) * direction[0] + (p[1] + q[1] - ay - dy) * direction[1]) / 2
            for p, q in ((piece.box[0], piece.box[3]), (piece.box[1], piece.box[2]))
        ]
        start = end if piece.text.isspace() and starts else sides[0]
        starts.append(max(start, starts[-1] + _MIN_WIDTH) if starts else start)
        end = sides[1]
    if not found:
        return None
    ends = [*starts[1:], max(end, starts[-1] + _MIN_WIDTH)]
    x = dx + DESCENT * (ax - dx) + starts[0] * direction[0]
    y = dy + DESCENT * (ay - dy) + starts[0] * direction[1]
    return TextRun(
        start=(x, y),
        direction=direction,
        height=height,
        pieces=[
            (piece.text, round(stop - start, 3))
            for piece, start, stop in zip(found, starts, ends, strict=True)
        ],
    )
