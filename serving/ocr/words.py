"""Word boxes, from the CTC time steps of their characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

from serving.ocr.ctc import mean_score
from serving.types import Point, Quad, Word

_CJK = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Han ideographs and kana, which are written without spaces."""

_Kind = Literal["cjk", "word", "other"]


class Span(NamedTuple):
    """A word, with its start and end as fractions of the line's length."""

    text: str
    start: float
    end: float
    score: float = 0.0


def word_spans(
    text: str, steps: Sequence[int], length: float, scores: Sequence[float]
) -> list[Span]:
    """The words of a line in order, split and measured as PaddleX's `return_word_box` does.

    text: as decoded; steps: the CTC step of each of its letters; length: of the line, in steps;
    scores: the probability at each step.
    A word is a run of letters and digits (of any script, accents included), one Chinese or Japanese
    character, or a run of anything else. PaddleX splits at everything that is not ASCII.
    It extends from its first to its last step; a CJK character is as wide as the mean distance
    between such characters in this line.
    """

    def span(first: int, last: int, start: float, end: float) -> Span:
        score = mean_score(steps[first:last], scores)
        return Span(text[first:last], max(0.0, start / length), min(1.0, end / length), score)

    spans = []
    runs = _runs(text)
    width = _cjk_width(runs, steps) or length / max(1, len(text))
    for kind, first, last in runs:
        if kind == "cjk":
            for index in range(first, last):
                centre = steps[index] + 0.5
                spans.append(span(index, index + 1, centre - width / 2, centre + width / 2))
        else:
            spans.append(span(first, last, steps[first], steps[last - 1] + 1))
    return spans


def word_on_page(span: Span, box: Quad) -> Word:
    """The word with its corners on the page. box: of its line, from the line's own top left."""
    top_left, top_right, bottom_right, bottom_left = box
    return Word(
        text=span.text,
        box=(
            _between(top_left, top_right, span.start),
            _between(top_left, top_right, span.end),
            _between(bottom_left, bottom_right, span.end),
            _between(bottom_left, bottom_right, span.start),
        ),
        score=span.score,
    )


def _runs(text: str) -> list[tuple[_Kind, int, int]]:
    """(kind, start, end) of each run of characters of one kind."""
    runs: list[tuple[_Kind, int, int]] = []
    for index, character in enumerate(text):
        previous = runs[-1][0] if runs else None
        kind = _kind(character)
        if previous == "word" and (
            character == "-" or (character == "." and text[index + 1 : index + 2].isdigit())
        ):
            kind = "word"
        if kind == previous:
            runs[-1] = (kind, runs[-1][1], index + 1)
        else:
            runs.append((kind, index, index + 1))
    return runs


def _kind(character: str) -> _Kind:
    if _CJK.match(character):
        return "cjk"
    # A combining mark belongs to the letter before it.
    is_word = character.isalnum() or unicodedata.combining(character)
    return "word" if is_word else "other"


def _cjk_width(runs: Sequence[tuple[_Kind, int, int]], steps: Sequence[int]) -> float:
    """Mean distance in steps between adjacent CJK characters; 0 without any."""
    widths = [
        (steps[last - 1] - steps[first] + 1) / (last - first - 1)
        for kind, first, last in runs
        if kind == "cjk" and last - first > 1
    ]
    return sum(widths) / len(widths) if widths else 0.0


def _between(a: Point, b: Point, fraction: float) -> Point:
    return round(a[0] + fraction * (b[0] - a[0])), round(a[1] + fraction * (b[1] - a[1]))
