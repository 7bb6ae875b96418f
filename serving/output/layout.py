"""What lines consist of and belong to, for formats that have words and paragraphs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from serving.ocr.words import Span, word_on_page
from serving.types import Line, Point, Quad, Word

DESCENT = 0.2
"""Of a line's height, what is below its baseline."""
_MAX_GAP = 0.8
"""Of a line's height, the distance to the next line of its paragraph."""
_MAX_HEIGHT_RATIO = 1.5
"""Between lines of one paragraph."""
_SPACE, _MAX_SPACE = 0.65, 1.2
"""Of a line's height: the widest space between two words, and the widest gap that is one."""
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """With U+FFFD for what XML 1.0 forbids, section 2.2: control characters, surrogates."""
    return _NO_XML.sub("\ufffd", text)


def bounds(poly: Iterable[Sequence[int]]) -> list[int]:
    """[left, top, right, bottom]"""
    xs, ys = zip(*poly, strict=True)
    return [min(xs), min(ys), max(xs), max(ys)]


def pieces(line: Line) -> Iterator[Word]:
    """The words of a line, split at white space; each run of it is a piece of its own."""
    for word in line.words or (Word(line.text, line.box, line.score),):
        for part in re.finditer(r"\s+|\S+", word.text):
            start, end = (offset / len(word.text) for offset in part.span())
            yield word_on_page(Span(part[0], start, end, word.score), word.box)


def words(line: Line) -> Iterator[Word]:
    """What stands between white space: `No.` is one word, and so is a sentence in Chinese."""
    for is_space, run in groupby(pieces(line), key=lambda piece: piece.text.isspace()):
        if not is_space:
            group = list(run)
            letters = sum(len(word.text) for word in group)
            (a, *_, d), (_, b, c, _) = group[0].box, group[-1].box
            score = sum(word.score * len(word.text) for word in group) / letters
            yield Word("".join(word.text for word in group), (a, b, c, d), score)


def space_width(gap: float, height: float) -> float:
    """How much of the gap between two boxes of words in a line of that height is the space.

    The boxes are narrower than the ink, and Poppler begins a new column at a wide space: what is
    more belongs to the two words. A gap that is too wide for a space stays one.
    """
    widest = _SPACE * height
    return widest if widest < gap <= _MAX_SPACE * height else gap


def baseline(line: Line) -> tuple[Point, Point]:
    """Where the line's letters stand, from its start to its end."""
    a, b, c, d = line.box
    left, right = (
        (round(low[0] + DESCENT * (high[0] - low[0])), round(low[1] + DESCENT * (high[1] - low[1])))
        for low, high in ((d, a), (c, b))
    )
    return left, right


def paragraphs(lines: Sequence[Line]) -> list[list[Line]]:
    """Successive lines, closely below each other, of one height and direction."""
    found: list[list[Line]] = []
    for line in lines:
        if found and _continues(found[-1][-1], line):
            found[-1].append(line)
        else:
            found.append([line])
    return found


def _continues(above: Line, line: Line) -> bool:
    left, top, right, bottom = bounds(_upright(above))
    next_left, next_top, next_right, next_bottom = bounds(_upright(line))
    low, high = sorted((bottom - top, next_bottom - next_top))
    return (
        above.turn == line.turn
        and high <= _MAX_HEIGHT_RATIO * low
        and -0.5 * low < next_top - bottom <= _MAX_GAP * low
        and min(right, next_right) > max(left, next_left)
    )


def _upright(line: Line) -> Quad:
    """Its corners as if its text ran to the right."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[line.turn % 360]
    a, b, c, d = ((cos * x + sin * y, cos * y - sin * x) for x, y in line.quad)
    return a, b, c, d
