"""Readings as the answer that the caller asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from flask import Response
from werkzeug.datastructures import MIMEAccept

from serving.http.context import json_response
from serving.http.query import Format
from serving.http.reading import total_timing
from serving.http.service import Reading
from serving.types import Line

_BY_TYPE: dict[str, Format] = {
    "application/json": "lines",
    "text/plain": "text",
    "image/png": "image",
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
    picture: NotRequired[str]
    """Where `pictures` asks for it: base64 of a JPEG, 2000 pixels a side at most."""


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
    return json_response(
        PagesAnswer(
            request_id=request_id,
            pages=[_page(reading) for reading in readings],
            timing=_rounded(total_timing(readings)),
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


def _page(reading: Reading) -> PageAnswer:
    answer = PageAnswer(
        image=reading.image,
        page=reading.number,
        width=reading.page.width,
        height=reading.page.height,
        lines=[_line(line) for line in reading.page.lines],
        timing=_rounded(reading.page.timing),
    )
    if reading.picture is not None:
        answer["picture"] = reading.picture
    return answer


def _rounded(timing: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(milliseconds, 1) for stage, milliseconds in timing.items()}


def _line(line: Line) -> LineAnswer:
    return LineAnswer(
        data=line.text,
        score=round(float(line.score), 4),
        box=[[int(x), int(y)] for x, y in line.box],
    )
