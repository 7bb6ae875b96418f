"""The formats that are read: detection from the content, names, limits on size."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from serving.errors import BadRequest, TooLarge, UnsupportedMedia

Data = bytes | bytearray | memoryview
Kind = Literal["jpeg", "png", "webp", "bmp", "gif", "tiff", "pdf"]

FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF and PDF"

MAX_PIXELS = 100_000_000
"""Of a page, by default."""

SNIFF_BYTES = 1024
"""How much of a file `sniff` looks at: PDF readers accept that much before `%PDF-`."""

_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
)
_UNREAD = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
"""By brand: formats of phones' pictures."""
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}


def display_name(kind: Kind, page: int | None = None) -> str:
    """The format, or the page (from 0) of a document, as errors name it."""
    name = "WebP" if kind == "webp" else kind.upper()
    return name if page is None or kind not in ("pdf", "tiff") else f"{name}, page {page + 1}"


def sniff(data: Data) -> Kind:
    """The format of `data`, detected from its content. Raises UnsupportedMedia."""
    head = bytes(data[:SNIFF_BYTES])
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    # "BM" alone also begins many texts: the size of the second header must be a valid one.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if b"%PDF-" in head:
        return "pdf"
    if not head:
        raise UnsupportedMedia(f"the file is empty; supported are {FORMATS}")
    if head[4:8] == b"ftyp" and head[8:12] in _UNREAD:
        name = _UNREAD[head[8:12]]
        raise UnsupportedMedia(
            f"{name} is not read: convert it, for example to JPEG; supported are {FORMATS}"
        )
    raise UnsupportedMedia(
        f"unsupported format: the file begins with {head[:12]!r}; "
        f"supported are {FORMATS} (detected from the content, not from the file name)"
    )


_RANGE = "([1-9][0-9]{0,5})(-([1-9][0-9]{0,5})?)?"
_MAX_RANGES = 100
RANGES_PATTERN = f"^{_RANGE}(,{_RANGE}){{0,{_MAX_RANGES - 1}}}$"
"""What `PageRanges.parse` takes, as a regular expression; nor may a range end before it begins."""


@dataclass(frozen=True, slots=True)
class PageRanges:
    """Which pages of a document are read, for example `1-3,7` or `2-`; by default all."""

    ranges: tuple[tuple[int, int | None], ...] = ((1, None),)
    """(first, last) from 1, both included; None: to the end."""

    @classmethod
    def parse(cls, text: str) -> PageRanges:
        """Raises BadRequest."""
        if (commas := text.count(",")) >= _MAX_RANGES:
            raise BadRequest(f"pages: {commas + 1} ranges; {_MAX_RANGES} are allowed")
        ranges: list[tuple[int, int | None]] = []
        for part in text.split(","):
            found = re.fullmatch(_RANGE, part)
            first = int(found[1]) if found else 0
            last = first if not found or not found[2] else int(found[3]) if found[3] else None
            if not found or (last is not None and last < first):
                raise BadRequest(
                    f"pages: {part[:40]!r} is no page or range of pages; give for example 1-3,7 or "
                    "2- (to the end), counted from 1"
                )
            ranges.append((first, last))
        return cls(tuple(ranges))

    @property
    def first(self) -> int:
        """The first page that is selected, from 1."""
        return min(first for first, _ in self.ranges)

    def __contains__(self, index: int) -> bool:
        """Whether the page with this index, from 0, is selected."""
        return any(first <= index + 1 <= (last or index + 1) for first, last in self.ranges)

    def has_from(self, index: int) -> bool:
        """Whether a page with this index or a later one is selected."""
        return any(last is None or index < last for _, last in self.ranges)

    def check(self, count: int) -> None:
        """Raise BadRequest where a range selects nothing of a document of `count` pages."""
        for first, _ in self.ranges:
            if first > count:
                has = "one page" if count == 1 else f"{count} pages"
                raise BadRequest(f"pages: there is no page {first}; the document has {has}")


ALL_PAGES = PageRanges()


@dataclass(frozen=True, slots=True)
class Limits:
    """Checked against headers, before anything is decoded."""

    max_pixels: int = MAX_PIXELS
    """Per page."""
    max_pages: int = 200
    """Per document."""

    def check_pages(self, count: int) -> None:
        """Raises TooLarge."""
        if count > self.max_pages:
            raise TooLarge(
                f"the document has {count} pages or more; the limit is {self.max_pages} "
                f"(--max-pages): send it in parts, or select some pages, as 1-{self.max_pages}"
            )

    def check_pixels(
        self, width: int, height: int, *, what: str, remedy: str = "send it smaller"
    ) -> None:
        """`what` names the page in the error, `remedy` says how to fix it. Raises TooLarge."""
        if width * height > self.max_pixels:
            raise TooLarge(
                f"{what}: {width} x {height} pixels; the limit is {self.max_pixels} "
                f"(--max-pixels): {remedy}"
            )
