"""Pages as the JSON and the text of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from serving.errors import InputError
from serving.types import Dpi, Line, Page, Quad

described = with_config(ConfigDict(extra="forbid", use_attribute_docstrings=True))
"""For the dicts that answers consist of: /openapi.json describes all that is in them."""


@dataclass(frozen=True, slots=True)
class ReadPage:
    """One page of a request, read."""

    image: int
    """Index of its document in the request."""
    number: int
    """Index of the page in its document."""
    total: int
    """Pages of the whole request."""
    page: Page
    dpi: Dpi | None = None
    """As its document says; of a PDF, as it was rendered."""
    picture: Any = field(default=None, repr=False)
    """The page as a picture, where the answer has one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A document, or a page of one, that could not be decoded, where the others are answered."""

    image: int
    number: int | None
    """Index of the page; None if the document does not open."""
    total: int
    error: InputError


def read_pages(results: Iterable[ReadPage | Failure]) -> list[ReadPage]:
    """Those that were read."""
    return [result for result in results if isinstance(result, ReadPage)]


Corner = Annotated[list[int], Field(min_length=2, max_length=2)]
"""[x, y]"""
Box = Annotated[list[Corner], Field(min_length=4, max_length=4)]


@described
class WordAnswer(TypedDict):
    """One word of a line, or the punctuation between two."""

    data: str
    score: float
    box: Box


@described
class LineAnswer(TypedDict):
    """One line of text."""

    data: str
    score: float
    box: Box
    """Four corners, clockwise from the line's own top left, pixels of the image as it was sent."""
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
    angle: int
    """By how many degrees the page was turned clockwise, as far as it was turned back."""
    source: Literal["ocr", "pdf_text"]
    """Whether the lines were read, or are the PDF's own text (with `pdf_text=auto`)."""
    lines: list[LineAnswer]
    timing: dict[str, float]
    """Milliseconds by stage."""
    hint: NotRequired[str]
    """Why text may be missing, and what to do."""
    picture: NotRequired[str]
    """With `pictures`: base64 of a JPEG, 2000 pixels a side at most."""


def placed_lines(read: ReadPage) -> list[PlacedLine]:
    """The lines of a page, in reading order."""
    return [
        PlacedLine(**_line(line), page=read.number, image=read.image) for line in read.page.lines
    ]


def page_answer(read: ReadPage) -> PageAnswer:
    """One page with its size, lines and timing."""
    answer = PageAnswer(
        image=read.image,
        page=read.number,
        width=read.page.width,
        height=read.page.height,
        angle=read.page.angle,
        source=read.page.source,
        lines=[_line(line) for line in read.page.lines],
        timing=rounded(read.page.timing),
    )
    if read.page.hint:
        answer["hint"] = read.page.hint
    if read.picture is not None:
        answer["picture"] = read.picture
    return answer


def plain_text(pages: Iterable[ReadPage]) -> str:
    """One line of text per line, pages separated by form feeds."""
    return "\f".join("\n".join(line.text for line in read.page.lines) for read in pages)


def total_timing(pages: Iterable[ReadPage]) -> dict[str, float]:
    """Milliseconds by stage, of all pages together."""
    total: dict[str, float] = {}
    for read in pages:
        for stage, milliseconds in read.page.timing.items():
            total[stage] = total.get(stage, 0.0) + milliseconds
    return total


def rounded(timing: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds by stage, to a tenth."""
    return {stage: round(milliseconds, 1) for stage, milliseconds in timing.items()}


def hints(pages: Sequence[ReadPage]) -> str:
    """The hints of all pages, each once."""
    return "; ".join(dict.fromkeys(read.page.hint for read in pages if read.page.hint))


def _line(line: Line) -> LineAnswer:
    answer = LineAnswer(data=line.text, score=round(float(line.score), 4), box=_box(line.box))
    words = [word for word in line.words if not word.text.isspace()]
    if words:
        answer["words"] = [
            WordAnswer(data=word.text, score=round(word.score, 4), box=_box(word.box))
            for word in words
        ]
    return answer


def _box(quad: Quad) -> list[list[int]]:
    return [[int(x), int(y)] for x, y in quad]
