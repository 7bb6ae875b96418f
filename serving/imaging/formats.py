"""How large an image or a document may be.

What a file is, told from its first bytes and never from its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serving.errors import TooLarge, UnsupportedMedia

Data = bytes | bytearray | memoryview
Kind = Literal["jpeg", "png", "webp", "bmp", "gif", "tiff", "pdf"]

READS = "JPEG, PNG, WebP, BMP, TIFF, GIF and PDF"

_NAMES: dict[Kind, str] = {
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WebP",
    "bmp": "BMP",
    "gif": "GIF",
    "tiff": "TIFF",
    "pdf": "PDF",
}

HEAD = 1024
"""How many bytes are looked at: PDF readers accept that much before `%PDF-`."""

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
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}


def title(kind: Kind, page: int | None = None) -> str:
    """How an error names the file, or a page (from 0) of a document."""
    if page is None or kind not in ("pdf", "tiff"):
        return _NAMES[kind]
    return f"{_NAMES[kind]}, page {page + 1}"


def sniff(data: Data) -> Kind:
    """The format of `data`. Raises UnsupportedMedia for what this package does not read."""
    head = bytes(data[:HEAD])
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    # "BM" alone also begins many texts: the size of the second header must be one that exists.
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if b"%PDF-" in head:
        return "pdf"
    if not head:
        raise UnsupportedMedia(f"the file is empty; this reads {READS}")
    raise UnsupportedMedia(
        f"not a format that this reads: the file begins with {head[:12]!r}; "
        f"send {READS} (the bytes count, not the file's name)"
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """Held against headers, before anything is decoded."""

    max_pixels: int = 100_000_000
    """Of one page."""
    max_pages: int = 200
    """Of one document."""

    def check_pages(self, count: int) -> None:
        """Raises TooLarge."""
        if count > self.max_pages:
            raise TooLarge(
                f"the document has {count} pages or more; the limit is {self.max_pages} "
                "(--max-pages): send it in parts"
            )

    def check_pixels(
        self, width: int, height: int, *, what: str, remedy: str = "send it smaller"
    ) -> None:
        """`what` has so many pixels, `remedy` is what the caller can do. Raises TooLarge."""
        if width * height > self.max_pixels:
            raise TooLarge(
                f"{what}: {width} x {height} pixels; the limit is {self.max_pixels} "
                f"(--max-pixels): {remedy}"
            )
