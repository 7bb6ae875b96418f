"""From an item to rows: one for each page, or one with the error of a whole document."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from serving.bulk.inputs import RANGE, Item
from serving.config.options import DEFAULT_OPTIONS, PDF_DPI, Options, PdfText
from serving.config.pipeline import PipelineConfig
from serving.errors import OcrError
from serving.imaging.decode import Decoder, Pages
from serving.imaging.formats import ALL_PAGES, Limits, PageRanges, sniff
from serving.output.pages import PageAnswer, ReadPage, page_answer
from serving.plan.load import open_pipeline
from serving.types import Page


class RowLine(TypedDict):
    """A line of text."""

    text: str
    score: float
    box: list[list[int]]
    """Four corners (x, y), clockwise from the line's own top left, in pixels of the page."""


class RowError(TypedDict):
    """Why a page, or a document, has not been read."""

    code: str
    """As in the server's answers."""
    message: str


class Row(TypedDict):
    """A page. Where `page` is None, `error` says why the whole document could not be read."""

    document: str
    page: int | None
    """From 0."""
    pages: int | None
    """Of the document; None where it could not be opened."""
    width: int | None
    """Pixels; so is the height. None with an error."""
    height: int | None
    angle: int | None
    """By how many degrees the page was turned clockwise."""
    text: str
    """One line of text per line."""
    lines: list[RowLine]
    ms: float
    """Taken by decoding and reading, milliseconds."""
    pipeline: str
    """The YAML's name, and a hash of models and engines: equal for equal ones."""
    error: RowError | None


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How every page of a run is read. Pickles."""

    config: PipelineConfig
    models: Path
    device: str | None = None
    options: Options = DEFAULT_OPTIONS
    pdf_dpi: int = PDF_DPI
    pdf_text: PdfText = "ignore"
    limits: Limits = field(default_factory=Limits)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for `from_dict` in a child process."""
        data = _READ_SETTINGS.dump_python(self, mode="json", by_alias=True, exclude_unset=True)
        return {**data, "source": self.config.source}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ReadSettings:
        """The reverse."""
        config = PipelineConfig.checked(data["config"], data["source"])
        return _READ_SETTINGS.validate_python({**data, "config": config})

    def settings(self) -> dict[str, Any]:
        """What the text depends on."""
        return {
            "pipeline": self.config.model_dump(mode="json", by_alias=True),
            "options": self.options.model_dump(exclude_none=True),
            "pdf_dpi": self.pdf_dpi,
            "pdf_text": self.pdf_text,
            "max_pixels": self.limits.max_pixels,
            "max_pages": self.limits.max_pages,
        }


_READ_SETTINGS = TypeAdapter(ReadSettings)


class Reader:
    """A loaded pipeline that reads items. Thread-safe."""

    def __init__(self, reading: ReadSettings, cores: int, slot: int, workers: int) -> None:
        """slot, workers, errors: as of `open_pipeline`."""
        self._reading = reading
        self._pipeline = open_pipeline(
            reading.config,
            models=reading.models,
            threads=cores,
            device=reading.device,
            warm=False,  # what no page has need not be waited for
            slot=slot,
            workers=workers,
        )
        self._decoder = Decoder(reading.limits)
        digest = hashlib.sha256(self._pipeline.identity.encode()).hexdigest()[:12]
        self._name = f"{Path(reading.config.source).stem}@{digest}"

    def read(self, item: Item) -> list[Row]:
        """The rows of an item. What is wrong with a page, or its document, is in its row.

        Whatever it is: one page of a million ends no run, and the rate of errors bounds them.
        """
        try:
            pages = open_pages(self._decoder, item.read(), item.first, self._reading.pdf_dpi)
        except Exception as error:
            return error_rows(item, row_error(error), self._name)
        return list(self._read(item, pages))

    def _read(self, item: Item, pages: Pages) -> Iterator[Row]:
        options = self._reading.options
        for info in pages.pages:
            start = time.perf_counter()
            try:
                own = pages.own_text(info) if self._reading.pdf_text == "auto" else None
                page = own or self._pipeline.read(pages.decode(info), options)
            except Exception as error:
                problem = row_error(error)
                yield error_row(item, problem, self._name, page=info.index, pages=pages.count)
            else:
                ms = (time.perf_counter() - start) * 1e3
                yield page_row(item, info.index, pages.count, page, ms, self._name)

    def close(self) -> None:
        """Free the engines."""
        self._decoder.close()
        self._pipeline.close()


def open_pages(decoder: Decoder, data: bytes, first: int, pdf_dpi: int) -> Pages:
    """RANGE pages of a document, or fewer at its end. Raises what `Decoder.pages` raises."""
    if sniff(data) != "tiff":
        ranges = PageRanges(((first + 1, first + RANGE),))
        pages = decoder.pages(data, pdf_dpi=pdf_dpi, ranges=ranges)
        decoder.limits.check_pages(pages.count)  # of the document: it has seen that of the range
        return pages
    # Counting the pages of a TIFF stops behind the last one that is selected.
    pages = decoder.pages(data, pdf_dpi=pdf_dpi, ranges=ALL_PAGES)
    pages.pages = pages.pages[first : first + RANGE]
    return pages


def page_row(
    item: Item, index: int, count: int, page: Page | PageAnswer, ms: float, name: str
) -> Row:
    """The row of a page that was read."""
    answer = page_answer(ReadPage(0, index, count, page)) if isinstance(page, Page) else page
    lines = answer["lines"]
    return Row(
        document=item.document.name,
        page=index,
        pages=count,
        width=answer["width"],
        height=answer["height"],
        angle=answer["angle"],
        text="\n".join(line["data"] for line in lines),
        lines=[RowLine(text=line["data"], score=line["score"], box=line["box"]) for line in lines],
        ms=round(ms, 1),
        pipeline=name,
        error=None,
    )


def row_error(error: BaseException) -> RowError:
    """An exception as the rows have it, in valid UTF-8, also where it names a file that is not."""
    if isinstance(error, OcrError):
        code, message = error.code, str(error)
    else:
        code, message = OcrError.code, f"{type(error).__name__}: {error}"
    return RowError(code=code, message=message.encode("utf-8", "replace").decode())


def error_rows(item: Item, error: RowError, name: str) -> list[Row]:
    """The rows of an item that could not be read at all."""
    if item.count is None:
        return [error_row(item, error, name)]
    pages = range(item.first, min(item.first + RANGE, item.count))
    return [error_row(item, error, name, page=page, pages=item.count) for page in pages]


def error_row(
    item: Item, error: RowError, name: str, *, page: int | None = None, pages: int | None = None
) -> Row:
    """The row of a page, or a document, that could not be read."""
    return Row(
        document=item.document.name,
        page=page,
        pages=pages,
        width=None,
        height=None,
        angle=None,
        text="",
        lines=[],
        ms=0.0,
        pipeline=name,
        error=error,
    )
