"""Bytes to pages: upright BGR images, whatever the file is.

JPEG, PNG, WebP and BMP are decoded in the calling thread, with their size known from the
header before. PDF, TIFF and GIF, and the rare single image whose decoding can run away, go to
the helpers of `sandbox.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from serving.errors import BadRequest, Undecodable
from serving.imaging import bmp, jpeg, png, single, webp
from serving.imaging.header import Header
from serving.imaging.limits import Limits
from serving.imaging.pixels import Array
from serving.imaging.sandbox import Blob, Sandbox, Size
from serving.imaging.sniff import Data, Kind, sniff, title
from serving.imaging.still import StillKind

_HEADERS: dict[StillKind, Callable[[Data], Header]] = {
    "jpeg": jpeg.read,
    "png": png.read,
    "webp": webp.read,
    "bmp": bmp.read,
}
_DPI = range(36, 1201)

# RGBA TIFF, the hungriest, takes 16 bytes a pixel at 100 million pixels.
_MEMORY = 512 << 20
_MEMORY_A_PIXEL = 20


class Pages(Iterator[Array]):
    """The pages of one image or document, decoded one by one as they are asked for.

    Each is (H, W, 3), BGR, uint8, C-contiguous, upright. `next` raises Undecodable, TimedOut,
    NotReady. One that is dropped midway holds nothing but the file's bytes.
    """

    def __init__(self, kind: Kind, sizes: list[Size], draw: Callable[[int], Array]) -> None:
        self.kind = kind
        self.sizes = tuple(sizes)
        """(width, height) of every page."""
        self.count = len(sizes)
        self._draw = draw
        self._next = 0

    def __next__(self) -> Array:
        if self._next >= self.count:
            raise StopIteration
        page = self._next
        self._next += 1
        return self._draw(page)


class Decoder:
    """Decodes for many threads at once. Create it after the fork; `close` ends its helpers.

    `helpers` processes at most are started, when first needed. `page_seconds` of processor
    time and `memory_bytes` are what they may spend on one page (see `Sandbox`); the default
    memory suffices for every format at `limits.max_pixels`.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        helpers: int = 2,
        page_seconds: float = 10.0,
        memory_bytes: int | None = None,
    ) -> None:
        self._limits = limits or Limits()
        if memory_bytes is None:
            memory_bytes = _MEMORY + _MEMORY_A_PIXEL * self._limits.max_pixels
        self._sandbox = Sandbox(helpers, page_seconds=page_seconds, memory_bytes=memory_bytes)

    def pages(self, data: Data, *, pdf_dpi: int = 144) -> Pages:
        """The pages of `data`, which must not change while they are read.

        Format, encryption and limits are checked by this call, before any pixel is decoded.
        Raises UnsupportedMedia, Undecodable, TooLarge, BadRequest (`pdf_dpi` not 36 to 1200),
        TimedOut, NotReady.
        """
        if pdf_dpi not in _DPI:
            raise BadRequest(f"pdf_dpi is {pdf_dpi}: give a whole number from 36 to 1200")
        kind = sniff(data)
        if kind == "jpeg" or kind == "png" or kind == "webp" or kind == "bmp":
            header = _HEADERS[kind](data)
            self._limits.check_pixels(*header.size, what=title(kind))
            if not header.runaway:
                return Pages(kind, [header.size], lambda _: single.decode(kind, header))
        return self._document(self._sandbox.blob(kind, data, pdf_dpi))

    def close(self) -> None:
        """End the helpers. Whoever is still waiting for a page gets NotReady."""
        self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _document(self, blob: Blob) -> Pages:
        count, sizes = self._sandbox.sizes(blob, self._limits.max_pages)
        self._limits.check_pages(count)
        remedy = "send it smaller"
        if blob.kind == "pdf":
            remedy = f"ask for a pdf_dpi below {blob.dpi}"
        for page, size in enumerate(sizes):
            what = title(blob.kind, page)
            if min(size) < 1:
                raise Undecodable(f"broken {what}: {size[0]} x {size[1]} pixels")
            self._limits.check_pixels(*size, what=what, remedy=remedy)

        def draw(page: int) -> Array:
            return self._sandbox.draw(blob, page, sizes[page], last=page == count - 1)

        return Pages(blob.kind, sizes, draw)
