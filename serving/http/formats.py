"""Readings as the answer that the caller asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from flask import Response
from werkzeug.datastructures import MIMEAccept

from serving.http.context import json_response
from serving.http.query import Format
from serving.http.reading import total_timing
from serving.http.service import Reading
from serving.types import Line

NDJSON = "application/x-ndjson"
"""A JSON object a line."""

_BY_TYPE: dict[str, Format] = {
    "application/json": "lines",
    "text/plain": "text",
    "image/png": "image",
    NDJSON: "pages",
}


class LineAnswer(TypedDict):
    """One line of text."""

    data: str
    score: float
    box: list[list[int]]
    """Four corners, clockwise from the line's own top left, pixels of the upright image."""


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


def streams(form: Format, accept: MIMEAccept) -> bool:
    """Whether the pages are sent one by one: `format=pages` for who takes NDJSON before JSON."""
    return form == "pages" and accept.best_match(["application/json", NDJSON]) == NDJSON


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
    return json_response(
        PagesAnswer(
            request_id=request_id,
            pages=[page_answer(reading) for reading in readings],
            timing=rounded(total_timing(readings)),
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


def page_answer(reading: Reading) -> PageAnswer:
    """One page of `format=pages`."""
    return PageAnswer(
        image=reading.image,
        page=reading.number,
        width=reading.page.width,
        height=reading.page.height,
        lines=[_line(line) for line in reading.page.lines],
        timing=rounded(reading.page.timing),
    )


def rounded(timing: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds by stage, to a tenth."""
    return {stage: round(milliseconds, 1) for stage, milliseconds in timing.items()}


def _line(line: Line) -> LineAnswer:
    return LineAnswer(
        data=line.text,
        score=round(float(line.score), 4),
        box=[[int(x), int(y)] for x, y in line.box],
    )
