"""Words of a line and where they stand, from the steps at which CTC read their characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from serving.types import Point, Quad, Word

_Kind = Literal["chinese", "latin", "other"]


class Span(NamedTuple):
    """A word and where it begins and ends, as shares of the line's length."""

    text: str
    start: float
    end: float


def spans(text: str, steps: Sequence[int], length: float) -> list[Span]:
    """The words of a line in order, parted and measured as PaddleX's `return_word_box` does.

    text: as decoded; steps: the CTC step of each of its characters; length: of the line, in steps.
    A word is a run of Latin letters and digits, one Chinese character, or a run of anything else.
    It goes from its first to its last step; a Chinese character is as wide as the distance of
    such characters in this line.
    """
    found = []
    runs = _runs(text)
    wide = _chinese_width(runs, steps) or length / max(1, len(text))
    for kind, first, last in runs:
        if kind == "chinese":
            centres = [(text[at], steps[at] + 0.5) for at in range(first, last)]
            found += [
                _span(character, centre - wide / 2, centre + wide / 2, length)
                for character, centre in centres
            ]
        else:
            found.append(_span(text[first:last], steps[first], steps[last - 1] + 1, length))
    return found


def place(span: Span, box: Quad) -> Word:
    """A word on its page; `box`: the line's corners, clockwise from its own top left."""
    top_left, top_right, bottom_right, bottom_left = box
    return Word(
        text=span.text,
        box=(
            _between(top_left, top_right, span.start),
            _between(top_left, top_right, span.end),
            _between(bottom_left, bottom_right, span.end),
            _between(bottom_left, bottom_right, span.start),
        ),
    )


def _runs(text: str) -> list[tuple[_Kind, int, int]]:
    """(kind, first, past the last) of every run of characters of one kind."""
    runs: list[tuple[_Kind, int, int]] = []
    for at, character in enumerate(text):
        before = runs[-1][0] if runs else None
        kind = _kind(character)
        if before == "latin" and (
            character == "-" or (character == "." and text[at + 1 : at + 2].isdigit())
        ):
            kind = "latin"
        if kind == before:
            runs[-1] = (kind, runs[-1][1], at + 1)
        else:
            runs.append((kind, at, at + 1))
    return runs


def _kind(character: str) -> _Kind:
    if "\u4e00" <= character <= "\u9fff":
        return "chinese"
    return "latin" if character.isascii() and character.isalnum() else "other"


def _chinese_width(runs: Sequence[tuple[_Kind, int, int]], steps: Sequence[int]) -> float:
    """Mean width in steps of a Chinese character, by the runs of several; 0 without any."""
    widths = [
        (steps[last - 1] - steps[first] + 1) / (last - first - 1)
        for kind, first, last in runs
        if kind == "chinese" and last - first > 1
    ]
    return sum(widths) / len(widths) if widths else 0.0


def _span(text: str, start: float, end: float, length: float) -> Span:
    return Span(text, max(0.0, start / length), min(1.0, end / length))


def _between(a: Point, b: Point, share: float) -> Point:
    return round(a[0] + share * (b[0] - a[0])), round(a[1] + share * (b[1] - a[1]))
