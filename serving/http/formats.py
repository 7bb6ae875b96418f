"""Readings as the answer that the caller asked for."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

from flask import Response
from werkzeug.datastructures import MIMEAccept

from serving.http.context import json_response
from serving.http.query import Format
from serving.http.reading import total_timing
from serving.http.service import Reading
from serving.types import Line, Quad

_BY_TYPE: dict[str, Format] = {
    "application/json": "lines",
    "text/plain": "text",
    "image/png": "image",
}


class WordAnswer(TypedDict):
    """One word of a line, or what stands between two."""

    data: str
    box: list[list[int]]


class LineAnswer(TypedDict):
    """One line of text."""

    data: str
    score: float
    box: list[list[int]]
    """Four corners, clockwise from the line's own top left, pixels of the upright image."""
    words: NotRequired[list[WordAnswer]]
    """With `return_word_box`, from left to right."""


class PlacedLine(LineAnswer):
    """One line of the default answer, with where it was found."""

    page: int
    image: int


class PageAnswer(TypedDict):
    """One page of `format=pages`."""

    image: int
    page: int
    width: int
    height: int
    lines: list[LineAnswer]
    timing: dict[str, float]
    """Milliseconds by stage."""


class PagesAnswer(TypedDict):
    """The answer of `format=pages`."""

    request_id: str
    pages: list[PageAnswer]
    timing: dict[str, float]
    """Milliseconds by stage, all pages together."""
    engine: Any


def chosen(asked: Format | None, accept: MIMEAccept) -> Format:
    """The form of the answer: `?format=`, else the Accept header, else lines."""
    if asked is not None:
        return asked
    best = max(_BY_TYPE, key=accept.quality)  # the first of equals: JSON
    return _BY_TYPE[best] if accept.quality(best) > 0 else "lines"


def lines(readings: list[Reading]) -> Response:
    """`[{"data", "score", "box", "page", "image"}, ...]` in reading order."""
    answer = [
        PlacedLine(**_line(line), page=reading.number, image=reading.image)
        for reading in readings
        for line in reading.page.lines
    ]
    return json_response(answer)


def pages(readings: list[Reading], *, request_id: str, engine: Any) -> Response:
    """An object with every page's size, lines and timing."""
    answers = [
        PageAnswer(
            image=reading.image,
            page=reading.number,
            width=reading.page.width,
            height=reading.page.height,
            lines=[_line(line) for line in reading.page.lines],
            timing={stage: round(time, 1) for stage, time in reading.page.timing.items()},
        )
        for reading in readings
    ]
    return json_response(
        PagesAnswer(
            request_id=request_id,
            pages=answers,
            timing={stage: round(time, 1) for stage, time in total_timing(readings).items()},
            engine=engine,
        )
    )


def text(readings: list[Reading]) -> Response:
    """Plain text: a line a line, pages parted by form feeds."""
    joined = "\f".join("\n".join(line.text for line in r.page.lines) for r in readings)
    return Response(joined, mimetype="text/plain")


def image(readings: list[Reading]) -> Response:
    """The one page with its boxes drawn, PNG."""
    return Response(readings[0].picture, mimetype="image/png")


def _line(line: Line) -> LineAnswer:
    answer = LineAnswer(data=line.text, score=round(float(line.score), 4), box=_box(line.box))
    words = [word for word in line.words if not word.text.isspace()]
    if words:
        answer["words"] = [WordAnswer(data=word.text, box=_box(word.box)) for word in words]
    return answer


def _box(quad: Quad) -> list[list[int]]:
    return [[int(x), int(y)] for x, y in quad]
