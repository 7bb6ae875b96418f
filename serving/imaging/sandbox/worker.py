"""A decoding helper: a process that opens documents and draws pages for one server process.

Started by `sandbox.py` as `python -c BOOTSTRAP SOCKET MEMORY SYS_PATH...`. It answers one
request at a time and holds at most one document open. A request:

    {"id": 7, "kind": "pdf", "dpi": 144, "data": true, "most": 200, "seconds": 10,
     "page": null | 3, "width": 0, "height": 0, "last": false}

with the document's bytes as first descriptor where `data` says so, and the memory to draw
into as the next where `page` is a number. The answer is {"count", "sizes"}, or {} after
drawing, or {"error": why}; `"spent": true` with it means that the helper ends itself.

Documents as a helper opens them: how large their pages are, and each page's pixels.

Runs in a helper process only (`helper.py`): PDFium is not safe under threads, and none of
these decoders has a bound on time or memory that a file could not break.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import logging
import math
import mmap
import os
import resource
import signal
import socket
import sys
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from serving.errors import Undecodable
from serving.imaging import pillow
from serving.imaging.formats import Kind, title
from serving.imaging.headers import read_jpeg
from serving.imaging.pillow import Array, broken
from serving.imaging.sandbox import protocol


class Document(ABC):
    """An open document. Methods raise Undecodable, or what the decoder raises."""

    @abstractmethod
    def sizes(self, most: int) -> tuple[int, list[tuple[int, int]]]:
        """The number of pages, and (width, height) of each, upright, in pixels.

        More than `most` pages: no sizes, and the number may be `most + 1` for "too many".
        """

    @abstractmethod
    def draw(self, page: int, out: Array) -> None:
        """Write the page, upright, BGR, into `out`, of the shape that `sizes` gave."""

    def close(self) -> None:  # noqa: B027
        """Let go of the memory."""


class StillDocument(Document):
    """GIF (first frame), and the images whose decoding may run away."""

    def __init__(self, kind: pillow.StillKind, data: bytes) -> None:
        self._image = pillow.open_still(kind, data)
        self._orientation = read_jpeg(data).orientation if kind == "jpeg" else 1

    def sizes(self, most: int) -> tuple[int, list[tuple[int, int]]]:
        width, height = self._image.size
        return 1, [(height, width) if self._orientation >= 5 else (width, height)]

    def draw(self, page: int, out: Array) -> None:
        _write(pillow.draw(self._image, self._orientation), out)


class TiffDocument(Document):
    """All pages; Pillow obeys the orientation tag by itself."""

    def __init__(self, data: bytes) -> None:
        self._image = TiffImageFile(io.BytesIO(data))

    def sizes(self, most: int) -> tuple[int, list[tuple[int, int]]]:
        sizes: list[tuple[int, int]] = []
        while len(sizes) <= most:
            try:
                self._image.seek(len(sizes))
            except EOFError:
                return len(sizes), sizes
            sizes.append(self._image.size)
        return len(sizes), []

    def draw(self, page: int, out: Array) -> None:
        self._image.seek(page)
        _write(pillow.draw(self._image), out)


class PdfDocument(Document):
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

    def sizes(self, most: int) -> tuple[int, list[tuple[int, int]]]:
        count = len(self._pdf)
        if count > most:
            return count, []
        pages = (self._pdf.get_page_size(page) for page in range(count))
        return count, [
            (math.ceil(width * self._scale), math.ceil(height * self._scale))
            for width, height in pages
        ]

    def draw(self, page: int, out: Array) -> None:
        def new_bitmap(width: int, height: int, **options: Any) -> Any:
            if (height, width, 3) != out.shape:
                raise ValueError(f"drawn at {width} x {height} pixels")
            buffer = (ctypes.c_ubyte * out.nbytes).from_buffer(out.data.cast("B"))
            return pypdfium2.PdfBitmap.new_native(width, height, buffer=buffer, **options)

        sheet = self._pdf[page]
        try:
            sheet.render(scale=self._scale, bitmap_maker=new_bitmap).close()
        finally:
            sheet.close()

    def close(self) -> None:
        self._pdf.close()


def open_document(kind: Kind, data: bytes, dpi: int) -> Document:
    """Reads headers only. Raises Undecodable, or what the decoder raises."""
    if kind == "pdf":
        return PdfDocument(data, dpi)
    if kind == "tiff":
        return TiffDocument(data)
    return StillDocument(kind, data)


def _write(image: Array, out: Array) -> None:
    if image.shape[:2] != out.shape[:2]:
        raise ValueError(f"decoded to {image.shape[1]} x {image.shape[0]} pixels")
    for channel in range(3):
        out[..., channel] = image if image.ndim == 2 else image[..., 2 - channel]


def main() -> None:
    """Serve until the other side closes its end."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    memory = int(sys.argv[2])
    _confine(memory)
    protocol.send(channel, {"ready": True})
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what decoders print is nobody's to read
    reader = _Reader(memory)
    spent = False
    while not spent:
        try:
            request, descriptors = protocol.receive(channel)
        except (EOFError, OSError):
            break
        answer = reader.answer(request, descriptors)
        spent = bool(answer.get("spent"))
        protocol.send(channel, answer)
    os._exit(0)


def _confine(memory: int) -> None:
    """Limit what a hostile file can take, and end when the server ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the server ends its helpers itself
    for number in (signal.SIGIO, signal.SIGXCPU):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # Standard input is a pipe of which the server holds the other end and into which it never
    # writes. When the server dies the kernel sends SIGIO, which kills, even inside a decoder.
    # (PR_SET_PDEATHSIG would fire as soon as the *thread* that started the helper ends.)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    Image.MAX_IMAGE_PIXELS = None  # the server checks the sizes before it asks for a page
    warnings.simplefilter("ignore")
    logging.disable()


class _Reader:
    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._id: int | None = None
        self._document: Document | None = None

    def answer(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        kind, page = request["kind"], request["page"]
        try:
            self._allow(request["seconds"])
            with broken(kind, page):
                if request["data"]:
                    self._open(request, descriptors[0])
                return self._answer(request, descriptors[-1:])
        except Undecodable as error:
            return {"error": str(error)}
        except MemoryError:
            why = f"decoding takes more than {self._memory >> 20} MiB of memory"
            return {"error": f"{title(kind, page)}: {why}", "spent": True}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _answer(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        document = self._document
        if document is None or self._id != request["id"]:
            sys.exit("asked for a document that is not open")  # a bug, and not the document's
        if request["page"] is None:
            count, sizes = document.sizes(request["most"])
            return {"count": count, "sizes": sizes}
        shape = (request["height"], request["width"], 3)
        # Unmapped when the last array on it is gone: closing it here could be too early.
        pixels = mmap.mmap(descriptors[0], math.prod(shape))
        document.draw(request["page"], np.ndarray(shape, np.uint8, pixels))
        if request["last"]:
            self._close()
        return {}

    def _open(self, request: dict[str, Any], descriptor: int) -> None:
        self._close()
        data = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)[:]
        self._document = open_document(request["kind"], data, request["dpi"])
        self._id = request["id"]

    def _close(self) -> None:
        document, self._document, self._id = self._document, None, None
        if document is not None:
            document.close()

    @staticmethod
    def _allow(seconds: float) -> None:
        """So many seconds of processor time from now on; then SIGXCPU kills."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = math.ceil(used.ru_utime + used.ru_stime + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
