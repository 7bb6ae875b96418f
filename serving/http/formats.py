"""Readings as the answer that the caller asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NotRequired

from flask import Response
from pydantic import Field
from typing_extensions import TypedDict
from werkzeug.datastructures import MIMEAccept

from serving.http.context import described, json_response
from serving.http.paddlex import InferAnswer
from serving.http.query import Format
from serving.http.reading import total_timing
from serving.http.registry import ModelAnswer
from serving.http.service import Reading
from serving.types import Line, Quad

NDJSON = "application/x-ndjson"
"""A JSON object a line."""

_BY_TYPE: dict[str, Format] = {
    "application/json": "lines",
    "text/plain": "text",
    "image/png": "image",
    NDJSON: "pages",
}


Corner = Annotated[list[int], Field(min_length=2, max_length=2)]
"""[x, y]"""
Box = Annotated[list[Corner], Field(min_length=4, max_length=4)]


@described
class WordAnswer(TypedDict):
    """One word of a line, or what stands between two."""

    data: str
    box: Box


@described
class LineAnswer(TypedDict):
    """One line of text."""

    data: str
    score: float
    box: Box
    """Four corners, clockwise from the line's own top left, pixels of the upright image."""
    words: NotRequired[list[WordAnswer]]
    """With `return_word_box`, from left to right."""


@described
class PlacedLine(LineAnswer):
    """One line of the default answer, with where it was found."""

    page: int
    image: int


@described
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


@described
class PagesAnswer(TypedDict):
    """The answer of `format=pages`."""

    request_id: str
    pages: list[PageAnswer]
    timing: dict[str, float]
    """Milliseconds by stage, all pages together."""
    engine: dict[str, ModelAnswer]
    """What read it, by section of the pipeline's YAML."""


ANSWERS = {
    "application/json": list[PlacedLine] | PagesAnswer | InferAnswer,
    "text/plain": str,
    "image/png": bytes,
    NDJSON: str,  # a PageAnswer a line, then the rest of a PagesAnswer; or an ErrorAnswer
}
"""What the answers are, by media type."""


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


def pages(readings: list[Reading], *, request_id: str, engine: dict[str, ModelAnswer]) -> Response:
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
    answer = PageAnswer(
        image=reading.image,
        page=reading.number,
        width=reading.page.width,
        height=reading.page.height,
        lines=[_line(line) for line in reading.page.lines],
        timing=rounded(reading.page.timing),
    )
    if reading.picture is not None:
        answer["picture"] = reading.picture
    return answer


def rounded(timing: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds by stage, to a tenth."""
    return {stage: round(milliseconds, 1) for stage, milliseconds in timing.items()}


def _line(line: Line) -> LineAnswer:
    answer = LineAnswer(data=line.text, score=round(float(line.score), 4), box=_box(line.box))
    words = [word for word in line.words if not word.text.isspace()]
    if words:
        answer["words"] = [WordAnswer(data=word.text, box=_box(word.box)) for word in words]
    return answer


def _box(quad: Quad) -> list[list[int]]:
    return [[int(x), int(y)] for x, y in quad]
