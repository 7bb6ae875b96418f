"""A decoder process: opens documents and decodes their pages for one server process.

Started by `client.py` as `python -c BOOTSTRAP SOCKET MEMORY SYS_PATH...`. It answers one request
at a time and holds at most one document open. PDFium is not thread-safe, and none of the decoders
here has a bound on time or memory that a file could not break. A request:

    {"document": 7, "kind": "pdf", "dpi": 144, "has_data": true, "seconds": 10,
     "page": null, "ranges": [[1, null]], "max_pages": 200}     for the sizes of pages, or
    {..., "page": 3, "width": 0, "height": 0, "last": false}    to decode a page, or
    {..., "page": 3, "width": 0, "height": 0, "own_text": true} for the text that a PDF has of it

With `has_data` the first descriptor is the document's bytes; with `page` the last is the memory
for the pixels. The answer is {"count", "pages"}, {"lines"}, {} after decoding, or {"error": why};
`"retire": true` with it means that the process must be ended.

    {"searchable": [[kind, bytes], ...], "layers": 123, "seconds": 10, ...}

makes one PDF of documents and writes it into the second descriptor; the answer is {"bytes"}. In the
first are 123 bytes of JSON, a list of PageText for each document, and the documents behind it.
Without a second descriptor it only checks them.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import math
import mmap
import os
import resource
import signal
import socket
import sys
import warnings
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium
from PIL import Image as PillowImage

from serving.errors import Undecodable
from serving.imaging import jpeg, pillow
from serving.imaging.formats import Kind, PageRanges, display_name
from serving.imaging.headers import read_header
from serving.imaging.pdf_text import own_text
from serving.imaging.sandbox import protocol
from serving.types import Dpi, Image

_PageInfo = tuple[int, int, int, Dpi | None]
"""Index, width, height, dots per inch."""


def main() -> None:
    """Answer requests until the server closes its end of the channel."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    memory_bytes = int(sys.argv[2])
    _add_fonts()
    _confine(memory_bytes)
    protocol.send(channel, {"ready": True})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # discard what decoders print
    worker = _Worker(memory_bytes)
    with suppress(EOFError, OSError):
        while True:
            protocol.send(channel, worker.answer(*protocol.receive(channel)))
    os._exit(0)


_FONT_FOLDERS = (ctypes.c_char_p * 4)(
    b"/usr/share/fonts", b"/usr/local/share/fonts", os.fsencode(Path(__file__).parents[2] / "data")
)
"""The system's and ours, with a null pointer at the end. PDFium keeps the address."""


def _add_fonts() -> None:
    """PDFium leaves out text whose font is neither embedded nor found."""
    strings = ctypes.POINTER(ctypes.POINTER(ctypes.c_char))
    paths = ctypes.cast(_FONT_FOLDERS, strings)
    pdfium.FPDF_DestroyLibrary()  # pypdfium2 initialises it on import, without our fonts
    pdfium.FPDF_InitLibraryWithConfig(pdfium.FPDF_LIBRARY_CONFIG(version=2, m_pUserFontPaths=paths))


def _confine(memory_bytes: int) -> None:
    """Limit what a hostile file can use, and end when the server ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server ends its decoder processes itself
    for number in (signal.SIGIO, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # Standard input is a pipe whose other end the server holds open and never writes to. When the
    # server dies the kernel sends SIGIO, which kills, even inside a decoder. (PR_SET_PDEATHSIG
    # would fire as soon as the *thread* that started this process ends.)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_bytes, used + memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    PillowImage.MAX_IMAGE_PIXELS = None  # the server checks the sizes before it requests a page
    warnings.simplefilter("ignore")
    logging.disable()


class _Worker:
    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._number: int | None = None
        self._document: _Pdf | _Pictures | None = None

    def answer(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        kind, page = request["kind"], request["page"]
        try:
            _limit_cpu(request["seconds"])
            with pillow.damage_as_undecodable(kind, page):
                if "searchable" in request:
                    self._close()
                    return _make_searchable(request, *descriptors)
                if request["has_data"]:
                    self._open(request, descriptors[0])
                return self._answer(request, descriptors[-1:])
        except Undecodable as error:
            return {"error": str(error)}
        except MemoryError:
            reason = f"decoding takes more than {self._memory_bytes >> 20} MiB of memory"
            return {"error": f"{display_name(kind, page)}: {reason}", "retire": True}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _answer(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        document = self._document
        if document is None or self._number != request["document"]:
            sys.exit("a request for a document that is not open")  # a bug of the server
        if request["page"] is None:
            ranges = PageRanges(tuple((first, last) for first, last in request["ranges"]))
            count, pages = document.pages(ranges, request["max_pages"])
            return {"count": count, "pages": pages}
        if "own_text" in request:
            assert isinstance(document, _Pdf)
            return {
                "lines": document.own_text(request["page"], request["width"], request["height"])
            }
        shape = (request["height"], request["width"], 3)
        # Unmapped when the last array on it is gone: closing it here could be too early.
        pixels = mmap.mmap(descriptors[0], math.prod(shape))
        document.decode(request["page"], np.ndarray(shape, np.uint8, pixels))
        if request["last"]:
            self._close()
        return {}

    def _open(self, request: dict[str, Any], descriptor: int) -> None:
        """Read the headers only."""
        self._close()
        data = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)[:]
        kind: Kind = request["kind"]
        self._document = _Pdf(data, request["dpi"]) if kind == "pdf" else _Pictures(kind, data)
        self._number = request["document"]

    def _close(self) -> None:
        document, self._document, self._number = self._document, None, None
        if document is not None:
            document.close()


def _make_searchable(
    request: dict[str, Any], source: int, target: int | None = None
) -> dict[str, Any]:
    from serving.imaging import pdf  # takes a tenth of a second, and few requests need it

    data = mmap.mmap(source, 0, prot=mmap.PROT_READ)[:]
    start = request["layers"]
    documents = []
    for kind, length in request["searchable"]:
        documents.append((kind, data[start : start + length]))
        start += length
    if target is None:
        for _, content in documents:
            pdf.check(content)
        return {}
    made = pdf.searchable(documents, json.loads(data[: request["layers"]]))
    room = os.fstat(target).st_size
    if len(made) > room:
        raise Undecodable(f"the searchable PDF has more than {room >> 20} MiB: send fewer pages")
    with mmap.mmap(target, len(made)) as out:
        out[:] = made
    return {"bytes": len(made)}


def _limit_cpu(seconds: float) -> None:
    """Allow `seconds` of processor time from now on; then SIGXCPU kills."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


class _Pictures:
    """TIFF (all pages), GIF (first frame), and single images whose decoding time is unbounded.

    As of `_Pdf`, its methods raise Undecodable, or what the decoder raises.
    """

    def __init__(self, kind: pillow.PillowKind, data: bytes) -> None:
        self._paged = kind == "tiff"  # Pillow applies a TIFF's orientation itself
        self._jpeg = header = read_header(kind, data) if kind == "jpeg" else None
        self._orientation = header.orientation if header else 1
        self._image = pillow.open_image(kind, header.body if header else data)

    def pages(self, ranges: PageRanges, max_pages: int) -> tuple[int, list[_PageInfo]]:
        """The number of pages, and those selected, of which at most one is over `max_pages`.

        A broken page of a document that has others is 0 wide and high.
        """
        dpi = pillow.dpi_of(self._image)
        if not self._paged:
            width, height = self._image.size
            if self._orientation >= 5:
                width, height, dpi = height, width, dpi and dpi[::-1]
            return 1, [(0, width, height, dpi)] if 0 in ranges else []
        index = 0
        found: list[_PageInfo] = []
        while ranges.has_from(index) and len(found) <= max_pages:
            try:
                self._image.seek(index)
            except EOFError:
                break
            except Exception:  # decoders raise a dozen types: see `damage_as_undecodable`
                if not index or any(first > index + 1 for first, _ in ranges.ranges):
                    raise
                if index in ranges:
                    found.append((index, 0, 0, None))
                return index + 1, found  # where further pages are is not known
            if index in ranges:
                found.append((index, *self._image.size, pillow.dpi_of(self._image)))
            index += 1
        return index, found

    def decode(self, page: int, out: Image) -> None:
        """Write the page, upright, BGR, into `out`, whose shape is as `pages` reported."""
        if self._paged:
            self._image.seek(page)
        pixels = jpeg.decode(self._jpeg) if self._jpeg and self._jpeg.jpeg_mode else None
        source = self._image if pixels is None else PillowImage.fromarray(pixels[..., ::-1])
        image = pillow.decode(source, self._orientation)
        if image.shape[:2] != out.shape[:2]:
            raise ValueError(f"decoded to {image.shape[1]} x {image.shape[0]} pixels")
        for channel in range(3):
            out[..., channel] = image if image.ndim == 2 else image[..., 2 - channel]

    def close(self) -> None:
        self._image.close()


class _Pdf:
    """All pages at `dpi`, with annotations and filled-in form fields."""

    def __init__(self, data: bytes, dpi: int) -> None:
        self._scale = dpi / 72
        try:
            self._pdf = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if error.err_code in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
                raise Undecodable(
                    "the PDF is encrypted and needs a password: send it without one"
                ) from error
            raise
        self._pdf.init_forms()

    def pages(self, ranges: PageRanges, max_pages: int) -> tuple[int, list[_PageInfo]]:
        count, dpi = len(self._pdf), self._scale * 72
        selected = islice(filter(ranges.__contains__, range(count)), max_pages + 1)
        return count, [(page, *self._size(page), (dpi, dpi)) for page in selected]

    def _size(self, page: int) -> tuple[int, int]:
        try:
            width, height = self._pdf.get_page_size(page)
        except pypdfium2.PdfiumError:
            return 0, 0
        return math.ceil(width * self._scale), math.ceil(height * self._scale)

    def decode(self, page: int, out: Image) -> None:
        def new_bitmap(width: int, height: int, **options: Any) -> Any:
            if (height, width, 3) != out.shape:
                raise ValueError(f"rendered at {width} x {height} pixels")
            buffer = (ctypes.c_ubyte * out.nbytes).from_buffer(out.data.cast("B"))
            return pypdfium2.PdfBitmap.new_native(width, height, buffer=buffer, **options)

        with closing(self._pdf[page]) as pdf_page:
            pdf_page.render(scale=self._scale, bitmap_maker=new_bitmap).close()

    def own_text(self, page: int, width: int, height: int) -> list[protocol.OwnLine] | None:
        """See `imaging/pdf_text.py`."""
        with closing(self._pdf[page]) as pdf_page:
            return own_text(pdf_page, width, height)

    def close(self) -> None:
        self._pdf.close()
