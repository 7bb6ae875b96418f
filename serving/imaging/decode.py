"""Bytes to pages: upright BGR images of every format that is read.

JPEG, PNG, WebP and BMP are decoded in the calling thread, after their header has shown the size.
PDF, TIFF, GIF and the rare single image whose decoding time is unbounded go to decoder processes
(`sandbox/`).

libjpeg-turbo decodes JPEG (`jpeg.py`) and OpenCV plain WebP: the same pixels as Pillow in half the
time, without holding the interpreter's lock. Pillow decodes the rest: it is as fast on grey PNG,
rejects truncated files and prints nothing.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Self

import cv2
import numpy as np

from serving.config.options import PDF_DPI
from serving.errors import BadRequest, TooLarge, Undecodable
from serving.imaging import jpeg, pillow
from serving.imaging.formats import (
    ALL_PAGES,
    Data,
    Kind,
    Limits,
    PageRanges,
    display_name,
    sniff,
)
from serving.imaging.headers import Header, SingleKind, read_header
from serving.imaging.sandbox.client import Document, PageInfo, Sandbox
from serving.imaging.sandbox.protocol import PageText
from serving.machine import usable_cores
from serving.types import Image, Line, Page

_DPI = range(36, 1201)

# 16 bytes a pixel are the maximum of all formats, for an RGBA TIFF at 100 million pixels.
_BASE_MEMORY = 512 << 20
_MEMORY_PER_PIXEL = 20


# glibc keeps what decoders and engines free after a large page, up to 1 GB, and returns it only if
# told to. That takes milliseconds: after pages of so many bytes.
_LARGE_PAGE = 48 << 20
# It keeps less where threads share arenas and large blocks are allocated outside of them.
_LARGE_ALLOCATION = 4 << 20
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_libc = ctypes.CDLL(None)
if hasattr(_libc, "mallopt"):  # musl has neither
    _libc.mallopt(_M_ARENA_MAX, max(2, usable_cores()))
    _libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_ALLOCATION)
_malloc_trim = getattr(_libc, "malloc_trim", lambda _: 0)


class Pages:
    """The pages of one image or document, decoded one at a time.

    Between pages only the file's bytes are held.
    """

    def __init__(
        self,
        kind: Kind,
        pages: Sequence[PageInfo],
        decode_page: Callable[[PageInfo], Image],
        own_lines: Callable[[PageInfo], tuple[Line, ...] | None] = lambda _: None,
        *,
        count: int = 1,
    ) -> None:
        self.kind = kind
        self.pages = tuple(pages)
        """Those selected, in order; a size is 0 where it cannot be read."""
        self.count = count
        """Pages of the whole document; of a TIFF, those up to the last one selected."""
        self._own_lines = own_lines
        self._decode_page = decode_page

    def __iter__(self) -> Iterator[Image]:
        return map(self.decode, self.pages)

    def own_text(self, page: PageInfo) -> Page | None:
        """The text that a PDF has of its page, with words; None where the page must be read.

        Raises Undecodable, TimedOut, NotReady.
        """
        start = time.perf_counter()
        lines = self._own_lines(page)
        if lines is None:
            return None
        spent = (time.perf_counter() - start) * 1e3
        return Page(*page.size, lines, {"pdf_text": spent}, source="pdf_text")

    def decode(self, page: PageInfo) -> Image:
        """One of `pages`, in any order: (H, W, 3), BGR, uint8, C-contiguous, upright.

        Raises Undecodable, TimedOut, NotReady; the other pages can still be decoded.
        """
        image = self._decode_page(page)
        if image.nbytes > _LARGE_PAGE:
            weakref.finalize(image, _malloc_trim, 0).atexit = False
        return image


class Decoder:
    """Decodes for many threads at once. Create it after the fork; `close` ends its processes.

    At most `processes` decoder processes are started, each when first needed. `page_seconds` of
    processor time and `memory_bytes` are the limits for one page (see `Sandbox`); the default
    memory suffices for every format at `limits.max_pixels`.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        processes: int = 2,
        page_seconds: float = 10.0,
        memory_bytes: int | None = None,
    ) -> None:
        self.limits = limits or Limits()
        if memory_bytes is None:
            memory_bytes = _BASE_MEMORY + _MEMORY_PER_PIXEL * self.limits.max_pixels
        self._sandbox = Sandbox(processes, page_seconds=page_seconds, memory_bytes=memory_bytes)

    def pages(self, data: Data, *, pdf_dpi: int = PDF_DPI, ranges: PageRanges = ALL_PAGES) -> Pages:
        """The selected pages of `data`, which must not change while they are read.

        Format, encryption and limits are checked here, before any pixel is decoded. Raises
        UnsupportedMedia, Undecodable, TooLarge, BadRequest (`pdf_dpi` not 36 to 1200, a page that
        is not there), TimedOut, NotReady.
        """
        if pdf_dpi not in _DPI:
            raise BadRequest(f"pdf_dpi is {pdf_dpi}: give a whole number from 36 to 1200")
        kind = sniff(data)
        if kind == "jpeg" or kind == "png" or kind == "webp" or kind == "bmp":
            header = read_header(kind, data)
            self.limits.check_pixels(*header.size, what=display_name(kind))
            if not header.sandboxed:
                ranges.check(1)
                page = PageInfo(0, header.size, header.dpi)
                return Pages(kind, [page], lambda _: _decode_image(kind, header))
        return self._document_pages(Document(kind, data, pdf_dpi), ranges)

    def _document_pages(self, document: Document, ranges: PageRanges) -> Pages:
        count, pages = self._sandbox.pages(document, ranges, self.limits.max_pages)
        if len(pages) > self.limits.max_pages:
            self.limits.check_pages(count)
        ranges.check(count)
        remedy = "send it smaller"
        if document.kind == "pdf":
            remedy = f"ask for a pdf_dpi below {document.dpi}"
        for page in pages:
            what = display_name(document.kind, page.index)
            self.limits.check_pixels(*page.size, what=what, remedy=remedy)

        def decode_page(page: PageInfo) -> Image:
            if min(page.size) < 1:
                what = display_name(document.kind, page.index)
                raise Undecodable(f"broken {what}: it has no size that can be read")
            return self._sandbox.decode(document, page.index, page.size, last=page is pages[-1])

        def own_lines(page: PageInfo) -> tuple[Line, ...] | None:
            return self._sandbox.own_text(document, page.index, page.size)

        if document.kind == "pdf":
            return Pages(document.kind, pages, decode_page, own_lines, count=count)
        return Pages(document.kind, pages, decode_page, count=count)

    def check_searchable(self, data: Data) -> None:
        """Raise Undecodable where `searchable` would, for a PDF that must not be changed."""
        if sniff(data) == "pdf":
            self._sandbox.check_searchable(data)

    def searchable(self, documents: Sequence[Data], texts: Sequence[list[PageText]]) -> bytes:
        """One PDF of all documents, with the text of their pages, not painted, on them.

        See `imaging/pdf.py`. Raises Undecodable, TimedOut, NotReady.
        """
        return self._sandbox.searchable([(sniff(data), data) for data in documents], texts)

    def close(self) -> None:
        """End the decoder processes. Callers still waiting for a page get NotReady."""
        self._sandbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _decode_image(kind: SingleKind, header: Header) -> Image:
    """The upright BGR page. Raises Undecodable, TooLarge (out of memory)."""
    try:
        image = _fast(header)
        if image is None:
            with pillow.damage_as_undecodable(kind):
                image = _with_pillow(kind, header)
    except MemoryError as error:
        raise TooLarge(
            f"not enough memory to decode {header.width} x {header.height} pixels: send it smaller"
        ) from error
    height, width = image.shape[:2]
    if (width, height) != header.size:
        raise Undecodable(
            f"broken {display_name(kind)}: it has {width} x {height} pixels, but its header says "
            f"{header.size[0]} x {header.size[1]}"
        )
    return image


def _fast(header: Header) -> Image | None:
    """None where Pillow must decide, and report the reason. Raises Undecodable."""
    image: cv2.typing.MatLike | None = None
    if header.jpeg_mode:
        image = jpeg.decode(header)
    elif header.opencv:
        with suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(header.body, np.uint8), _FLAGS)
    if image is None:
        return None
    transform = _TRANSFORMS.get(header.orientation)
    return np.ascontiguousarray(image if transform is None else transform(image), np.uint8)


_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_TRANSFORMS: dict[int, Callable[[cv2.typing.MatLike], cv2.typing.MatLike]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}


def _with_pillow(kind: SingleKind, header: Header) -> Image:
    image = pillow.decode(pillow.open_image(kind, header.body), header.orientation)
    code = cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR
    return np.ascontiguousarray(cv2.cvtColor(image, code), np.uint8)
