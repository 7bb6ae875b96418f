"""The formats that hold a whole document: one registry for the server and for `predict`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from serving.config.options import Options
from serving.imaging.formats import Data
from serving.output.alto import alto
from serving.output.hocr import hocr
from serving.output.markdown import markdown
from serving.output.pages import ReadPage, plain_text
from serving.output.pdf import searchable_pdf

if TYPE_CHECKING:
    from serving.imaging.decode import Decoder

DocumentName = Literal["text", "markdown", "hocr", "alto", "pdf"]
Write = Callable[[Sequence[ReadPage], Sequence[Data], "Decoder"], bytes]
"""From the pages and the documents that they are from; see `ReadPage.image`."""

Check = Callable[[Data, "Decoder"], None]


@dataclass(frozen=True, slots=True)
class DocumentFormat:
    """How all pages of a request, or of a file, become one document."""

    media_type: str
    suffix: str
    """Of a file."""
    write: Write
    needs_words: bool = False
    schema: type[str | bytes] = str
    """Of its content."""
    check: Check | None = None
    """Refuses a document before it is read. Raises InputError."""

    def options(self, options: Options) -> Options:
        """With word boxes, where the format needs them."""
        return options.model_copy(update={"return_word_box": True}) if self.needs_words else options


def _text(write: Callable[[Sequence[ReadPage]], str]) -> Write:
    return lambda pages, documents, decoder: write(pages).encode()


DOCUMENTS: dict[DocumentName, DocumentFormat] = {
    "text": DocumentFormat("text/plain", ".txt", _text(plain_text)),
    "markdown": DocumentFormat("text/markdown", ".md", _text(markdown)),
    "hocr": DocumentFormat("text/vnd.hocr+html", ".hocr", _text(hocr), needs_words=True),
    "alto": DocumentFormat("application/alto+xml", ".alto.xml", _text(alto), needs_words=True),
    "pdf": DocumentFormat(
        "application/pdf",
        ".pdf",
        searchable_pdf,
        needs_words=True,
        schema=bytes,
        check=lambda data, decoder: decoder.check_searchable(data),
    ),
}
