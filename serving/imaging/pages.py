"""Documents as a helper opens them: how large their pages are, and each page's pixels.

Runs in a helper process only (`helper.py`): PDFium is not safe under threads, and none of
these decoders has a bound on time or memory that a file could not break.
"""

from __future__ import annotations

import ctypes
import io
import math
from abc import ABC, abstractmethod
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium
from PIL.TiffImagePlugin import TiffImageFile

from serving.errors import Undecodable
from serving.imaging import jpeg, still
from serving.imaging.pixels import Array
from serving.imaging.sniff import Kind


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

    def __init__(self, kind: still.StillKind, data: bytes) -> None:
        self._image = still.open_still(kind, data)
        self._orientation = jpeg.read(data).orientation if kind == "jpeg" else 1

    def sizes(self, most: int) -> tuple[int, list[tuple[int, int]]]:
        width, height = self._image.size
        return 1, [(height, width) if self._orientation >= 5 else (width, height)]

    def draw(self, page: int, out: Array) -> None:
        _write(still.draw(self._image, self._orientation), out)


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
        _write(still.draw(self._image), out)


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
